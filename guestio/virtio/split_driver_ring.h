// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/virtio/driver_chain.h"
#include "guestio/virtio/layout.h"
#include "guestio/virtio/split_ring.h"

/// The driver's side of a split virtqueue (virtio 1.2, section 2.7): what a guest does, for
/// programs that load or test a device.
namespace guestio::virtio {

/// Makes chains available and reaps them from the used ring. The device is not trusted: what it
/// returns is checked against our own record, and nothing that it could overwrite is read back.
///
/// Errors of every function: memory fault (the ring's memory went away), peer fault (the device
/// returned what was never given to it, or twice). The queue is of no use afterwards.
///
/// Threads: one at a time.
class SplitDriverRing {
 public:
  using Segment = DriverSegment;
  using IndirectTable = DriverTable;
  using Used = DriverUsed;

  /// Formats the ring's memory, both indices at `first_index`.
  static Result<SplitDriverRing> create(const SplitRing& ring, FeatureBits features,
                                        std::uint16_t first_index = 0);

  /// Adds a chain of one descriptor for each segment, as they come; the device sees none until
  /// publish(). Returns its head, which names the chain until it is reaped.
  /// Errors: busy when free_descriptors() is too small; nothing has changed then.
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
  /// The index up to which chains were published.
  [[nodiscard]] std::uint16_t avail_index() const noexcept { return published_; }

 private:
  /// What we remember of each descriptor, out of the device's reach.
  struct Shadow {
    std::uint16_t next = 0;    // in the free list, or in its chain
    std::uint16_t length = 0;  // descriptors of the chain that begins here; 0: none does
  };

  SplitDriverRing(const SplitRing& ring, FeatureBits features, std::uint16_t first_index);

  Result<std::uint16_t> put(std::span<const Descriptor> descriptors);
  Result<bool> look_at_used();
  void free_chain(std::uint16_t head) noexcept;

  SplitRing ring_;
  FeatureBits features_;
  std::vector<Shadow> shadow_;
  std::vector<Descriptor> scratch_;  // a chain before it goes into a table
  std::uint16_t free_head_ = 0;
  std::uint16_t free_count_;
  std::uint16_t in_flight_ = 0;
  std::uint16_t published_;  // the available index that the device sees
  std::uint16_t added_ = 0;  // chains behind it that the device does not see yet
  std::uint16_t next_used_;  // where the next used entry is
  std::uint16_t used_seen_;  // the device's index when it was last looked at
};

}  // namespace guestio::virtio
