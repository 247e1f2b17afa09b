// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/virtio/driver_chain.h"
#include "guestio/virtio/packed_ring.h"

/// The driver side of a packed virtqueue (virtio 1.2, section 2.8), for programs that load or test
/// a device.
namespace guestio::virtio {

/// Makes chains available and reaps used descriptors. The interface and the errors are those of
/// SplitDriverRing. A chain's head here is its buffer id.
///
/// Threads: one at a time.
class PackedDriverRing {
 public:
  /// Formats the ring's memory: nothing available, both positions at `first`.
  /// Requires: first.index < the ring's size.
  static Result<PackedDriverRing> create(const PackedRing& ring, FeatureBits features,
                                         PackedPosition first = {});

  /// Adds a chain of one descriptor per segment, invisible to the device until publish(). Returns
  /// its id. Errors: busy (free_descriptors() is too small), without effect. Requires: at least one
  /// segment.
  Result<std::uint16_t> add(std::span<const DriverSegment> segments);
  /// As add(), with the descriptors in `table`, and one in the ring.
  /// Requires: kFeatureIndirectDesc was negotiated, segments.size() <= table.capacity.
  Result<std::uint16_t> add_indirect(std::span<const DriverSegment> segments,
                                     const DriverTable& table);

  /// Publishes all added chains. Returns whether the device needs a kick.
  Result<bool> publish();

  /// The next returned chain, if any.
  Result<std::optional<DriverUsed>> reap();

  /// Asks the device for calls from now on. Returns whether chains are returned already; they may
  /// cause no call.
  Result<bool> enable_calls();
  /// Tells the device that the ring is polled. Calls may still come.
  Result<> suppress_calls();

  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  [[nodiscard]] std::uint16_t free_descriptors() const noexcept { return free_count_; }
  /// Chains added and not reaped.
  [[nodiscard]] std::uint16_t in_flight() const noexcept { return in_flight_; }
  /// The position after the published chains.
  [[nodiscard]] PackedPosition next_avail() const noexcept { return published_; }
  /// The position after the reaped chains.
  [[nodiscard]] PackedPosition next_used() const noexcept { return next_used_; }

 private:
  enum class State : std::uint8_t { kFree, kAdded, kVisible };

  /// Our record of a buffer id, out of the device's reach.
  struct Buffer {
    std::uint16_t next_free = 0;
    std::uint16_t length = 0;  // descriptors
    State state = State::kFree;
  };

  PackedDriverRing(const PackedRing& ring, FeatureBits features, PackedPosition first);

  Result<std::uint16_t> put(std::span<const PackedDescriptor> descriptors);
  Result<bool> check_used(PackedTail& tail) const;

  PackedRing ring_;
  FeatureBits features_;
  std::vector<Buffer> buffers_;            // by id
  std::vector<PackedDescriptor> scratch_;  // a chain before it is stored
  std::vector<std::uint16_t> added_;       // unpublished ids
  PackedTail first_tail_{};                // of the first added chain; stored by publish()
  PackedPosition published_;
  PackedPosition next_avail_;  // after the added chains
  PackedPosition next_used_;
  std::uint16_t free_id_ = 0;
  std::uint16_t free_count_;
  std::uint16_t in_flight_ = 0;
};

}  // namespace guestio::virtio
