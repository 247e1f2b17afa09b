// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/extent_arena.h"
#include "guestio/virtio/packed_ring.h"

/// The device's side of a packed virtqueue (virtio 1.2, section 2.8).
namespace guestio::virtio {

/// Where a device stands in a packed ring: what SET_VRING_BASE and GET_VRING_BASE carry.
struct PackedBase {
  PackedPosition avail;  ///< the next chain is read from here
  PackedPosition used;   ///< the next answer goes here

  [[nodiscard]] constexpr std::uint32_t to_word() const noexcept {
    return std::uint32_t{used.to_word()} << 16 | avail.to_word();
  }
  [[nodiscard]] static constexpr PackedBase from_word(std::uint32_t word) noexcept {
    return {.avail = PackedPosition::from_word(static_cast<std::uint16_t>(word)),
            .used = PackedPosition::from_word(static_cast<std::uint16_t>(word >> 16))};
  }
  /// Whether a ring of `size` entries has such places, the one behind the other.
  [[nodiscard]] constexpr bool is_valid(std::uint32_t size) const noexcept {
    if (avail.index >= size || used.index >= size) return false;
    return avail.wrap == used.wrap ? avail.index >= used.index : avail.index <= used.index;
  }
};

/// Takes chains from the descriptor ring and writes the answers over them. The driver is hostile:
/// each value is read once into our own memory, checked, and the copy is used. What errors and
/// malformed chains mean is said at SplitDeviceRing; a chain's head here is its buffer id.
///
/// A chain's descriptors stand one behind the other, so where one ends the next begins: a chain
/// whose end cannot be found, or whose id cannot be answered, is the end of the ring.
///
/// Invariants:
/// 1. Every chain that pop() gave is pushed exactly once.
/// 2. Chains in flight, or pushed without being published, have at most size() descriptors.
/// 3. An answer that was not published is in our memory only: the driver reads the first of a batch
///    last, and nobody behind it.
///
/// Threads: one at a time.
class PackedDeviceRing {
 public:
  /// Errors: peer fault (no such place in this ring).
  static Result<PackedDeviceRing> create(const PackedRing& ring, FeatureBits features,
                                         PackedBase base);

  /// Clears `chain` and fetches the next one into it. `memory` is where indirect tables are.
  Result<PopResult> pop(const mem::GuestMemory& memory, Chain& chain);
  /// The descriptors of the chain that pop() or pop_again() gave last, as they were fetched.
  [[nodiscard]] std::span<const PackedDescriptor> fetched() const noexcept { return fetched_; }

  /// Takes a chain once more that a device took before it died: `descriptors` are what it fetched
  /// then, and stand between the two places of `base`.
  /// Errors: peer fault (an id that cannot be; more descriptors than there are).
  Result<PopResult> pop_again(std::span<const PackedDescriptor> descriptors,
                              const mem::GuestMemory& memory, Chain& chain);
  /// A device that died while it published may have written answers that the driver cannot have
  /// seen: takes them back. Errors: memory fault. Requires: nothing was pushed yet.
  Result<> withdraw_answers();

  /// Puts an answer behind those that were put before; the driver sees none until publish().
  /// `written` counts the bytes that the device wrote. Requires: the chain is in flight.
  Result<> push_used(std::uint16_t id, std::uint32_t written);

  /// Shows the driver all answers pushed since the last time, at once.
  /// Returns whether the driver wants to be called.
  Result<bool> publish();

  /// The next publish() that shows something asks for a call, whatever the driver says.
  void force_next_call() noexcept { force_call_ = true; }

  /// Asks the driver for kicks from now on. Returns whether something is available already, for
  /// which no kick may come.
  Result<bool> enable_notifications();
  /// Tells the driver that the ring is looked at anyway. Kicks may still come.
  Result<> suppress_notifications();

  /// The ring's parts were mapped elsewhere: goes on there. Requires: the same size.
  void move_to(const PackedRing& ring) noexcept;

  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  [[nodiscard]] PackedBase base() const noexcept { return {next_avail_, published_}; }
  /// Where answers will go on after the next publish().
  [[nodiscard]] PackedPosition next_used() const noexcept { return next_used_; }
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return in_flight_; }

 private:
  /// What became of a chain's content.
  enum class Walk { kWhole, kMalformed, kNoRoom };
  /// An answer that waits for publish().
  struct Answer {
    std::uint16_t index;
    PackedTail tail;
  };

  PackedDeviceRing(const PackedRing& ring, FeatureBits features, PackedBase base);

  Result<bool> fetch();
  Result<PopResult> take(const mem::GuestMemory& memory, Chain& chain);
  static Walk append_all(std::span<const PackedDescriptor> descriptors, const char* fault_of_table,
                         Chain& chain);
  Walk walk(const mem::GuestMemory& memory, Chain& chain) const;
  Walk walk_indirect(const PackedDescriptor& table, const mem::GuestMemory& memory,
                     Chain& chain) const;

  PackedRing ring_;
  FeatureBits features_;
  std::uint32_t max_descriptors_;          // of a chain
  std::unique_ptr<ExtentArena> arena_;     // on the heap so that chains may point to it
  std::vector<std::uint16_t> lengths_;     // descriptors of each id in flight; 0: it is not
  std::vector<PackedDescriptor> fetched_;  // one chain
  std::vector<Answer> answers_;            // pushed and not published
  PackedPosition next_avail_;
  PackedPosition published_;           // where the driver looks for the next answer
  PackedPosition next_used_;           // behind the answers that wait
  std::uint32_t descriptors_out_ = 0;  // taken and not published
  std::uint32_t in_flight_ = 0;        // chains
  bool force_call_ = false;
};

}  // namespace guestio::virtio
