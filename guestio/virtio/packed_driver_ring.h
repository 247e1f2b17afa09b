// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/virtio/driver_chain.h"
#include "guestio/virtio/packed_ring.h"

/// The driver's side of a packed virtqueue (virtio 1.2, section 2.8): what a guest does, for
/// programs that load or test a device.
namespace guestio::virtio {

/// Makes chains available and reaps their answers. The interface and the errors are those of
/// SplitDriverRing; a chain's head here is its buffer id.
///
/// Threads: one at a time.
class PackedDriverRing {
 public:
  using Segment = DriverSegment;
  using IndirectTable = DriverTable;
  using Used = DriverUsed;

  /// Formats the ring's memory: nothing available, both sides at `first`.
  /// Requires: first.index < the ring's size.
  static Result<PackedDriverRing> create(const PackedRing& ring, FeatureBits features,
                                         PackedPosition first = {});

  /// Adds a chain of one descriptor for each segment; the device sees none until publish().
  /// Returns its id. Errors: busy when free_descriptors() is too small; nothing has changed then.
  /// Requires: at least one segment.
  Result<std::uint16_t> add(std::span<const Segment> segments);
  /// As add(), with the descriptors in `table`; takes one of the ring.
  /// Requires: kFeatureIndirectDesc was negotiated, segments.size() <= table.capacity.
  Result<std::uint16_t> add_indirect(std::span<const Segment> segments, const IndirectTable& table);

  /// Shows the device all chains added since the last time. Returns whether it wants a kick.
  Result<bool> publish();

  /// The next chain that came back, if there is one.
  Result<std::optional<Used>> reap();

  /// Asks the device for calls from now on. Returns whether something came back already, for which
  /// no call may come.
  Result<bool> enable_calls();
  /// Tells the device that the ring is looked at anyway. Calls may still come.
  Result<> suppress_calls();

  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  [[nodiscard]] std::uint16_t free_descriptors() const noexcept { return free_count_; }
  /// Chains that were added and not reaped.
  [[nodiscard]] std::uint16_t in_flight() const noexcept { return in_flight_; }
  /// The place up to which chains were published.
  [[nodiscard]] PackedPosition next_avail() const noexcept { return published_; }
  /// The place up to which answers were reaped.
  [[nodiscard]] PackedPosition next_used() const noexcept { return next_used_; }

 private:
  enum class State : std::uint8_t { kFree, kAdded, kVisible };

  /// What we remember of each buffer id, out of the device's reach.
  struct Buffer {
    std::uint16_t next_free = 0;
    std::uint16_t length = 0;  // descriptors
    State state = State::kFree;
  };

  PackedDriverRing(const PackedRing& ring, FeatureBits features, PackedPosition first);

  Result<std::uint16_t> put(std::span<const PackedDescriptor> descriptors);
  Result<bool> look_at_used(PackedTail& tail) const;

  PackedRing ring_;
  FeatureBits features_;
  std::vector<Buffer> buffers_;            // by id
  std::vector<PackedDescriptor> scratch_;  // a chain before it goes into the ring
  std::vector<std::uint16_t> added_;       // ids that the device does not see yet
  PackedTail first_tail_{};                // withheld until publish(): the first added chain's
  PackedPosition published_;
  PackedPosition next_avail_;  // behind what was added
  PackedPosition next_used_;
  std::uint16_t free_id_ = 0;
  std::uint16_t free_count_;
  std::uint16_t in_flight_ = 0;
};

}  // namespace guestio::virtio
