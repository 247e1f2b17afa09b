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

/// The driver side of a split virtqueue (virtio 1.2, section 2.7), for programs that load or test a
/// device.
namespace guestio::virtio {

/// Makes chains available and reaps them from the used ring. The device is untrusted: returned
/// chains are checked against a record of our own, and device-writable memory is never read back.
///
/// Errors of all functions: memory fault (the ring's memory is gone), peer fault (the device
/// returned a chain that it did not have). The ring is unusable afterwards.
///
/// Threads: one at a time.
class SplitDriverRing {
 public:
  /// Formats the ring's memory with both indices at `first_index`.
  static Result<SplitDriverRing> create(const SplitRing& ring, FeatureBits features,
                                        std::uint16_t first_index = 0);

  /// Adds a chain of one descriptor per segment, in order, invisible to the device until publish().
  /// Returns its head, which identifies the chain until it is reaped.
  /// Errors: busy (free_descriptors() is too small), without effect.
  /// Requires: at least one segment.
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
  /// The published available index.
  [[nodiscard]] std::uint16_t avail_index() const noexcept { return published_; }

 private:
  /// Our record of a descriptor, out of the device's reach.
  struct Shadow {
    std::uint16_t next = 0;    // in the free list, or in its chain
    std::uint16_t length = 0;  // descriptors of the chain that begins here; 0: none
  };

  SplitDriverRing(const SplitRing& ring, FeatureBits features, std::uint16_t first_index);

  Result<std::uint16_t> put(std::span<const Descriptor> descriptors);
  Result<bool> check_used();
  void free_chain(std::uint16_t head) noexcept;

  SplitRing ring_;
  FeatureBits features_;
  std::vector<Shadow> shadow_;
  std::vector<Descriptor> scratch_;  // a chain before it is stored
  std::uint16_t free_head_ = 0;
  std::uint16_t free_count_;
  std::uint16_t in_flight_ = 0;
  std::uint16_t published_;  // the available index
  std::uint16_t added_ = 0;  // chains after it, unpublished
  std::uint16_t next_used_;  // the next used entry
  std::uint16_t used_seen_;  // the device's index as last read
};

}  // namespace guestio::virtio
