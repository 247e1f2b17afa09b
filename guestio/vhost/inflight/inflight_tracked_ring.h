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

/// A ring whose chains stand in an in-flight record, if there is one, from before anybody sees them
/// until after their answers were shown. What a backend before took and did not answer comes out of
/// pop() first, in the order that it was taken in.
///
/// The functions are those of virtio::DeviceRing. Errors also: memory fault, when the record's
/// memory goes away. Threads: one at a time.
class InflightTrackedRing {
 public:
  struct Setup {
    virtio::RingParts parts;
    virtio::FeatureBits features = 0;
    /// As SET_VRING_BASE has it. A record that says more about it wins: a front-end whose backend
    /// was killed cannot know.
    std::uint32_t base = 0;
    std::uint16_t index = 0;                         ///< of the queue, in the record
    std::shared_ptr<const InflightRecord> inflight;  ///< or nothing
  };

  /// Errors also: peer fault (a record that no backend can have left, or of another kind).
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
  /// Chains of the backend before that pop() has still to give.
  [[nodiscard]] std::size_t resubmit_count() const noexcept;

 private:
  struct NoRecord {};
  struct SplitRecord {
    SplitInflight record;
    std::vector<std::uint16_t> again;
  };
  struct PackedRecord {
    PackedInflight record;
    std::vector<std::vector<virtio::PackedDescriptor>> again;
  };
  using Record = std::variant<NoRecord, SplitRecord, PackedRecord>;

  InflightTrackedRing(virtio::DeviceRing ring, std::shared_ptr<const InflightRecord> memory,
                      Record record)
      : ring_(std::move(ring)), memory_(std::move(memory)), record_(std::move(record)) {
    answers_.reserve(ring_.size());
  }

  static Result<InflightTrackedRing> create_split(Setup setup, std::byte* region);
  static Result<InflightTrackedRing> create_packed(Setup setup, std::byte* region);
  Result<virtio::PopResult> pop_again(const mem::GuestMemory& memory, virtio::Chain& chain);
  Result<> note_taken(const virtio::Chain& chain);
  Result<bool> publish_split(SplitRecord& split);
  Result<bool> publish_packed(PackedRecord& packed);

  virtio::DeviceRing ring_;
  std::shared_ptr<const InflightRecord> memory_;  // keeps the mapping
  Record record_;
  std::size_t next_again_ = 0;
  std::vector<std::uint16_t> answers_;  // pushed and not published
};

}  // namespace guestio::vhost
