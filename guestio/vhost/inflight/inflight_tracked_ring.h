// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/vhost/inflight/packed_inflight.h"
#include "guestio/vhost/inflight/split_inflight.h"
#include "guestio/virtio/device_ring.h"

namespace guestio::vhost {

/// A ring that records its chains in flight, if it has a record: from before pop() returns them
/// until after publish(). pop() first returns the chains that an earlier backend left in flight, in
/// the order of their first pop.
///
/// The functions are those of virtio::DeviceRing. Errors also: memory fault (the record's memory is
/// gone). Threads: one at a time.
class InflightTrackedRing {
 public:
  struct Setup {
    virtio::RingParts parts;
    virtio::FeatureBits features = 0;
    /// As in SET_VRING_BASE. A record with a base overrides it: the front-end of a killed backend
    /// cannot know it.
    std::uint32_t base = 0;
    std::uint16_t index = 0;                         ///< of the queue, in the record
    std::shared_ptr<const InflightRecord> inflight;  ///< null: none
  };

  /// Errors also: peer fault (a record of another kind, or one that no backend leaves).
  static Result<InflightTrackedRing> create(Setup setup);

  Result<virtio::PopResult> pop(const mem::GuestMemory& memory, virtio::Chain& chain);
  Result<> push_used(std::uint16_t head, std::uint32_t written);
  Result<bool> publish();
  void force_next_call() noexcept { ring_.force_next_call(); }
  Result<bool> enable_notifications();
  Result<> suppress_notifications() { return ring_.suppress_notifications(); }
  void move_to(const virtio::RingParts& parts) noexcept { ring_.move_to(parts); }
  [[nodiscard]] std::uint16_t size() const noexcept { return ring_.size(); }
  [[nodiscard]] std::uint32_t base() const noexcept { return ring_.base(); }
  /// Chains of an earlier backend that pop() has still to return.
  [[nodiscard]] std::size_t resubmit_count() const noexcept;

 private:
  struct NoRecord {};
  struct SplitRecord {
    SplitInflight record;
    std::vector<std::uint16_t> resubmit;
  };
  struct PackedRecord {
    PackedInflight record;
    std::vector<std::vector<virtio::PackedDescriptor>> resubmit;
  };
  using Record = std::variant<NoRecord, SplitRecord, PackedRecord>;

  InflightTrackedRing(virtio::DeviceRing ring, std::shared_ptr<const InflightRecord> memory,
                      Record record)
      : ring_(std::move(ring)), memory_(std::move(memory)), record_(std::move(record)) {
    pushed_.reserve(ring_.size());
  }

  static Result<InflightTrackedRing> create_split(Setup setup, std::byte* region);
  static Result<InflightTrackedRing> create_packed(Setup setup, std::byte* region);
  Result<virtio::PopResult> pop_resubmitted(const mem::GuestMemory& memory, virtio::Chain& chain);
  Result<> note_popped(const virtio::Chain& chain);
  Result<bool> publish_split(SplitRecord& split);
  Result<bool> publish_packed(PackedRecord& packed);

  virtio::DeviceRing ring_;
  std::shared_ptr<const InflightRecord> memory_;  // keeps the mapping
  Record record_;
  std::size_t next_resubmit_ = 0;
  std::vector<std::uint16_t> pushed_;  // heads, unpublished
};

}  // namespace guestio::vhost
