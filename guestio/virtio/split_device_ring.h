// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/extent_arena.h"
#include "guestio/virtio/layout.h"
#include "guestio/virtio/split_ring.h"

/// The device's side of a split virtqueue (virtio 1.2, section 2.7).
namespace guestio::virtio {

/// Takes chains from the available ring and gives them back through the used ring. The driver is
/// hostile: each value is read once into our own memory, checked, and the copy is used.
///
/// Faults of the driver are of two kinds. A malformed chain comes out of pop() marked as one: push
/// it when the byte that tells its driver is written (Chain::last_writable()), and else never, and
/// stop using the queue. A malformed ring is an Error from any function here: stop using the queue
/// (peer fault: what the driver wrote; memory fault: ring memory went away).
///
/// A chain may be longer than the queue, in an indirect table: see kMaxChainDescriptors.
///
/// Invariants:
/// 1. Every chain that pop() gave is pushed exactly once.
/// 2. At most size() chains are in flight or pushed without being published.
///
/// Threads: one at a time.
///
///     while (queue.pop(memory, chain) == SplitDeviceRing::Pop::kChain) {
///       ...
///       queue.push_used(chain.head(), written);
///     }
///     if (*queue.publish()) call_driver();
class SplitDeviceRing {
 public:
  /// `next_avail` is where the available ring is to be read from; where the used ring goes on is
  /// read from the ring itself. Errors: memory fault.
  static Result<SplitDeviceRing> create(const SplitRing& ring, FeatureBits features,
                                        std::uint16_t next_avail);

  /// Clears `chain` and fetches the next one into it. `memory` is where indirect tables are.
  Result<PopResult> pop(const mem::GuestMemory& memory, Chain& chain);

  /// Takes a chain once more that a device took before it died; the ring still has its descriptors.
  /// Errors: peer fault (no such head, more than the ring holds).
  Result<PopResult> pop_again(std::uint16_t head, const mem::GuestMemory& memory, Chain& chain);

  /// Puts a used entry behind those that were put before; the driver sees none until publish().
  /// `written` counts the bytes that the device wrote. Requires: the chain is in flight.
  Result<> push_used(std::uint16_t head, std::uint32_t written);

  /// Shows the driver all entries pushed since the last time, at once.
  /// Returns whether the driver wants to be called.
  Result<bool> publish();

  /// The next publish() that shows something asks for a call, whatever the driver says. For rings
  /// that start on memory whose history is not known.
  void force_next_call() noexcept { force_call_ = true; }

  /// Asks the driver for kicks from now on. Returns whether something is available already, for
  /// which no kick may come.
  Result<bool> enable_notifications();
  /// Tells the driver that the ring is looked at anyway. Kicks may still come.
  Result<> suppress_notifications();

  /// The ring's parts were mapped elsewhere: goes on there, at the same indices.
  /// Requires: the same size.
  void move_to(const SplitRing& ring) noexcept;
  /// Counts chains as in flight that another queue object took from this ring.
  void adopt_in_flight(std::uint16_t chains) noexcept { in_flight_ += chains; }

  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  /// Where the next chain is read from: what GET_VRING_BASE answers.
  [[nodiscard]] std::uint16_t next_avail() const noexcept { return next_avail_; }
  /// The used index as the driver sees it.
  [[nodiscard]] std::uint16_t used_index() const noexcept { return published_; }
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return in_flight_; }

 private:
  /// What became of the walk along a chain.
  enum class Walk { kWhole, kMalformed, kNoRoom };

  SplitDeviceRing(const SplitRing& ring, FeatureBits features, std::uint16_t next_avail,
                  std::uint16_t used_index);

  Result<bool> is_available();
  void prefetch_ahead(const mem::GuestMemory& memory) const noexcept;
  Result<bool> recheck();
  Result<PopResult> take(std::uint16_t head, const mem::GuestMemory& memory, Chain& chain);
  Result<Walk> walk(std::uint16_t head, const mem::GuestMemory& memory, Chain& chain) const;
  Walk walk_indirect(const Descriptor& table, std::uint32_t already, const mem::GuestMemory& memory,
                     Chain& chain) const;
  [[gnu::cold]] static Walk give_up(const Error& fault, Chain& chain);
  [[gnu::cold]] Walk find_end(Descriptor at, std::uint32_t fetched, const mem::GuestMemory& memory,
                              Chain& chain) const;
  Result<bool> wants_call(std::uint16_t before) const;

  SplitRing ring_;
  FeatureBits features_;
  std::uint32_t max_descriptors_;       // of a chain
  std::unique_ptr<ExtentArena> arena_;  // on the heap so that chains may point to it
  std::uint16_t next_avail_;
  std::uint16_t kick_event_;  // the avail event as it was last set
  std::uint16_t avail_seen_;  // the driver's index when it was last looked at
  std::uint16_t published_;   // the used index that the driver sees
  std::uint16_t pushed_ = 0;  // entries behind it that the driver does not see yet
  std::uint32_t in_flight_ = 0;
  bool force_call_ = false;
};

}  // namespace guestio::virtio
