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

/// The device side of a split virtqueue (virtio 1.2, section 2.7).
namespace guestio::virtio {

/// Pops chains from the available ring and returns them through the used ring. The driver is
/// hostile: each value is read once, the copy is checked, and the copy is used.
///
/// A driver has two kinds of faults:
/// - Malformed chain: pop() returns it marked. Push it once its status is written at
///   Chain::last_writable(). Without that byte never push it, and stop using the ring.
/// - Malformed ring: any function returns an Error. Stop using the ring. Peer fault: invalid
/// content;
///   memory fault: the ring's memory is gone.
///
/// An indirect chain may be longer than the ring: kMaxChainDescriptors.
///
/// Invariants:
/// 1. Each popped chain is pushed exactly once.
/// 2. At most size() chains are in flight or unpublished.
///
/// Threads: one at a time.
///
///     while (ring.pop(memory, chain) == PopResult::kChain) {
///       ...
///       ring.push_used(chain.head(), written);
///     }
///     if (*ring.publish()) call_driver();
class SplitDeviceRing {
 public:
  /// `next_avail`: the first index to read of the available ring. The used index is read from the
  /// ring. Errors: memory fault.
  static Result<SplitDeviceRing> create(const SplitRing& ring, FeatureBits features,
                                        std::uint16_t next_avail);

  /// Clears `chain` and fetches the next one into it, indirect tables from `memory`.
  Result<PopResult> pop(const mem::GuestMemory& memory, Chain& chain);

  /// Pops a chain that an earlier device popped before it died. The ring still has its descriptors.
  /// Errors: peer fault (no such head, more chains than the ring holds).
  Result<PopResult> pop_resubmitted(std::uint16_t head, const mem::GuestMemory& memory,
                                    Chain& chain);

  /// Adds a used entry, invisible to the driver until publish(). `written`: bytes written by the
  /// device. Requires: the chain is in flight.
  Result<> push_used(std::uint16_t head, std::uint32_t written);

  /// Publishes all pushed entries at once. Returns whether the driver needs a call.
  Result<bool> publish();

  /// The next publish() of an entry needs a call, even a suppressed one. For rings that start on
  /// memory of unknown history.
  void force_next_call() noexcept { force_call_ = true; }

  /// Asks the driver for kicks from now on. Returns whether chains are available already; they may
  /// cause no kick.
  Result<bool> enable_notifications();
  /// Tells the driver that the ring is polled. Kicks may still come.
  Result<> suppress_notifications();

  /// Continues at the same indices in parts mapped elsewhere. Requires: the same size.
  void move_to(const SplitRing& ring) noexcept;
  /// Counts chains in flight that another object popped from this ring.
  void add_in_flight(std::uint16_t chains) noexcept { in_flight_ += chains; }

  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  /// The index of the next chain: the reply to GET_VRING_BASE.
  [[nodiscard]] std::uint16_t next_avail() const noexcept { return next_avail_; }
  /// The published used index.
  [[nodiscard]] std::uint16_t used_index() const noexcept { return published_; }
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return in_flight_; }

 private:
  /// The result of the walk along a chain.
  enum class Walk { kComplete, kMalformed, kNoRoom };

  SplitDeviceRing(const SplitRing& ring, FeatureBits features, std::uint16_t next_avail,
                  std::uint16_t used_index);

  Result<bool> is_available();
  void prefetch_ahead(const mem::GuestMemory& memory) const noexcept;
  Result<bool> recheck();
  Result<PopResult> build_chain(std::uint16_t head, const mem::GuestMemory& memory, Chain& chain);
  Result<Walk> walk(std::uint16_t head, const mem::GuestMemory& memory, Chain& chain) const;
  Walk walk_indirect(const Descriptor& table, std::uint32_t fetched_before,
                     const mem::GuestMemory& memory, Chain& chain) const;
  [[gnu::cold]] static Walk end_unknown(const Error& fault, Chain& chain);
  [[gnu::cold]] Walk find_end(Descriptor at, std::uint32_t fetched, const mem::GuestMemory& memory,
                              Chain& chain) const;
  Result<bool> needs_call(std::uint16_t before) const;

  SplitRing ring_;
  FeatureBits features_;
  std::uint32_t max_descriptors_;       // of a chain
  std::unique_ptr<ExtentArena> arena_;  // on the heap so that chains may point to it
  std::uint16_t next_avail_;
  std::uint16_t kick_event_;  // the avail event as last set
  std::uint16_t avail_seen_;  // the driver's index as last read
  std::uint16_t published_;   // the used index
  std::uint16_t pushed_ = 0;  // entries after it, unpublished
  std::uint32_t in_flight_ = 0;
  bool force_call_ = false;
};

}  // namespace guestio::virtio
