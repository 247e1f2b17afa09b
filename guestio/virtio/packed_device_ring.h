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

/// The device side of a packed virtqueue (virtio 1.2, section 2.8).
namespace guestio::virtio {

/// The positions of a device in a packed ring, as in SET_VRING_BASE and GET_VRING_BASE.
struct PackedBase {
  PackedPosition avail;  ///< of the next chain
  PackedPosition used;   ///< of the next used descriptor

  [[nodiscard]] constexpr std::uint32_t to_word() const noexcept {
    return std::uint32_t{used.to_word()} << 16 | avail.to_word();
  }
  [[nodiscard]] static constexpr PackedBase from_word(std::uint32_t word) noexcept {
    return {.avail = PackedPosition::from_word(static_cast<std::uint16_t>(word)),
            .used = PackedPosition::from_word(static_cast<std::uint16_t>(word >> 16))};
  }
  /// Whether a ring of `size` entries has these positions, `used` not after `avail`.
  [[nodiscard]] constexpr bool is_valid(std::uint32_t size) const noexcept {
    if (avail.index >= size || used.index >= size) return false;
    return avail.wrap == used.wrap ? avail.index >= used.index : avail.index <= used.index;
  }
};

/// Pops chains from the descriptor ring and overwrites them with used descriptors. The driver is
/// hostile: each value is read once, the copy is checked, and the copy is used. Errors and
/// malformed chains are those of SplitDeviceRing. A chain's head here is its buffer id.
///
/// A chain's descriptors are consecutive, and the next chain begins at its end. So a chain without
/// an end, or with an unusable id, ends the ring.
///
/// Invariants:
/// 1. Each popped chain is pushed exactly once.
/// 2. Chains in flight or unpublished have at most size() descriptors.
/// 3. Unpublished used descriptors are in our own memory only. publish() writes the first of a
/// batch
///    last, and the driver reads nothing after it before.
///
/// Threads: one at a time.
class PackedDeviceRing {
 public:
  /// Errors: peer fault (no such position in this ring).
  static Result<PackedDeviceRing> create(const PackedRing& ring, FeatureBits features,
                                         PackedBase base);

  /// Clears `chain` and fetches the next one into it, indirect tables from `memory`.
  Result<PopResult> pop(const mem::GuestMemory& memory, Chain& chain);
  /// The descriptors of the last popped chain, as fetched.
  [[nodiscard]] std::span<const PackedDescriptor> fetched() const noexcept { return fetched_; }

  /// Pops a chain that an earlier device popped before it died. `descriptors`: as that one fetched
  /// them, from between the two positions of `base`.
  /// Errors: peer fault (invalid id; more descriptors than in flight).
  Result<PopResult> pop_resubmitted(std::span<const PackedDescriptor> descriptors,
                                    const mem::GuestMemory& memory, Chain& chain);
  /// Makes used descriptors available again that an earlier device wrote, but died before it
  /// published. Errors: memory fault. Requires: nothing was pushed yet.
  Result<> withdraw_used();

  /// Adds a used descriptor, invisible to the driver until publish(). `written`: bytes written by
  /// the device. Requires: the chain is in flight.
  Result<> push_used(std::uint16_t id, std::uint32_t written);

  /// Publishes all pushed descriptors at once. Returns whether the driver needs a call.
  Result<bool> publish();

  /// The next publish() of a descriptor needs a call, even a suppressed one.
  void force_next_call() noexcept { force_call_ = true; }

  /// Asks the driver for kicks from now on. Returns whether a chain is available already; it may
  /// cause no kick.
  Result<bool> enable_notifications();
  /// Tells the driver that the ring is polled. Kicks may still come.
  Result<> suppress_notifications();

  /// Continues in parts mapped elsewhere. Requires: the same size.
  void move_to(const PackedRing& ring) noexcept;

  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  [[nodiscard]] PackedBase base() const noexcept { return {next_avail_, published_}; }
  /// The position of the next used descriptor after the next publish().
  [[nodiscard]] PackedPosition next_used() const noexcept { return next_used_; }
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return in_flight_; }

 private:
  /// The result of the walk along a chain.
  enum class Walk { kComplete, kMalformed, kNoRoom };
  /// A used descriptor before publish().
  struct UsedEntry {
    std::uint16_t index;
    PackedTail tail;
  };

  PackedDeviceRing(const PackedRing& ring, FeatureBits features, PackedBase base);

  Result<bool> fetch();
  Result<PopResult> build_chain(const mem::GuestMemory& memory, Chain& chain);
  static Walk append_all(std::span<const PackedDescriptor> descriptors, const char* fault_of_table,
                         Chain& chain);
  Walk walk(const mem::GuestMemory& memory, Chain& chain) const;
  Walk walk_indirect(const PackedDescriptor& table, const mem::GuestMemory& memory,
                     Chain& chain) const;

  PackedRing ring_;
  FeatureBits features_;
  std::uint32_t max_descriptors_;          // of a chain
  std::unique_ptr<ExtentArena> arena_;     // on the heap so that chains may point to it
  std::vector<std::uint16_t> lengths_;     // descriptors of each id; 0: not in flight
  std::vector<PackedDescriptor> fetched_;  // one chain
  std::vector<UsedEntry> pending_used_;    // pushed, unpublished
  PackedPosition next_avail_;
  PackedPosition published_;                 // the next used descriptor for the driver
  PackedPosition next_used_;                 // after the unpublished ones
  std::uint32_t descriptors_in_flight_ = 0;  // popped and not published
  std::uint32_t in_flight_ = 0;              // chains
  bool force_call_ = false;
};

}  // namespace guestio::virtio
