// SPDX-License-Identifier: MIT
#include "guestio/virtio/packed_driver_ring.h"

#include <array>
#include <atomic>
#include <bit>

#include "guestio/base/check.h"
#include "guestio/mem/recover.h"
#include "guestio/virtio/split_ring.h"

namespace guestio::virtio {

namespace {

PackedDescriptor describe(const DriverSegment& segment, bool has_next) noexcept {
  const int write = segment.direction == Direction::kWritable ? kDescriptorWrite : 0;
  return {.address = segment.address.raw(),
          .length = segment.length,
          .id = 0,
          .flags = static_cast<std::uint16_t>(write | (has_next ? kDescriptorNext : 0))};
}

}  // namespace

PackedDriverRing::PackedDriverRing(const PackedRing& ring, FeatureBits features,
                                   PackedPosition first)
    : ring_(ring),
      features_(features),
      buffers_(ring.size()),
      published_(first),
      next_avail_(first),
      next_used_(first),
      free_count_(ring.size()) {
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i].next_free = static_cast<std::uint16_t>(i + 1);
  }
  scratch_.reserve(ring.size());
  added_.reserve(ring.size());
}

Result<PackedDriverRing> PackedDriverRing::create(const PackedRing& ring, FeatureBits features,
                                                  PackedPosition first) {
  GUESTIO_CHECK(first.index < ring.size(), "a position inside the ring");
  PackedPosition position = first;
  for (std::uint32_t i = 0; i < ring.size(); ++i, position = position.plus(1, ring.size())) {
    // As after the previous lap: used, and not available in this one.
    const PackedPosition previous_lap{.index = position.index, .wrap = !position.wrap};
    const PackedTail tail{.length = 0, .id = 0, .flags = previous_lap.used_flags()};
    if (!ring.try_store_tail(position.index, tail))
      return fail_ring_access(ring.tail(position.index));
  }
  for (std::uint32_t* const event : {ring.driver_event(), ring.device_event()}) {
    if (!mem::try_store(event, std::uint32_t{0})) return fail_ring_access(event);
  }
  return PackedDriverRing(ring, features, first);
}

Result<std::uint16_t> PackedDriverRing::add(std::span<const DriverSegment> segments) {
  GUESTIO_CHECK(!segments.empty(), "a chain of at least one segment");
  scratch_.clear();
  for (std::size_t i = 0; i < segments.size(); ++i) {
    scratch_.push_back(describe(segments[i], i + 1 < segments.size()));
  }
  return put(scratch_);
}

Result<std::uint16_t> PackedDriverRing::add_indirect(std::span<const DriverSegment> segments,
                                                     const DriverTable& table) {
  GUESTIO_CHECK((features_ & kFeatureIndirectDesc) != 0, "indirect tables to be negotiated");
  GUESTIO_CHECK(!segments.empty() && segments.size() <= table.capacity,
                "a chain that fits its table");
  // Our tables are aligned to at least 8, and an entry is two 8-byte integers.
  auto* const words = reinterpret_cast<std::uint64_t*>(table.host);
  for (std::size_t i = 0; i < segments.size(); ++i) {
    // 2.8.19: no flag but WRITE.
    const auto halves = std::bit_cast<std::array<std::uint64_t, 2>>(describe(segments[i], false));
    if (!mem::try_store(words + 2 * i, halves[0]) ||
        !mem::try_store(words + 2 * i + 1, halves[1])) {
      return fail_ring_access(words + 2 * i);
    }
  }
  const PackedDescriptor whole{
      .address = table.address.raw(),
      .length = static_cast<std::uint32_t>(segments.size() * sizeof(PackedDescriptor)),
      .id = 0,
      .flags = kDescriptorIndirect};
  return put({&whole, 1});
}

Result<std::uint16_t> PackedDriverRing::put(std::span<const PackedDescriptor> descriptors) {
  if (descriptors.size() > free_count_) return fail(ErrorKind::kBusy, "add a chain to the ring");
  const std::uint16_t id = free_id_;
  PackedPosition position = next_avail_;
  for (const PackedDescriptor& descriptor : descriptors) {
    const PackedTail tail{
        .length = descriptor.length,
        .id = id,
        .flags = static_cast<std::uint16_t>(descriptor.flags | position.avail_flags())};
    if (!ring_.try_store_address(position.index, descriptor.address)) {
      return fail_ring_access(ring_.address(position.index));
    }
    // The device reads nothing after a descriptor that is not available yet: publish() stores the
    // first.
    if (position == published_) {
      first_tail_ = tail;
    } else if (!ring_.try_store_tail(position.index, tail)) {
      return fail_ring_access(ring_.tail(position.index));
    }
    position = position.plus(1, ring_.size());
  }
  const auto length = static_cast<std::uint16_t>(descriptors.size());
  free_id_ = buffers_[id].next_free;
  buffers_[id] = {.next_free = 0, .length = length, .state = State::kAdded};
  next_avail_ = position;
  free_count_ = static_cast<std::uint16_t>(free_count_ - length);
  ++in_flight_;
  added_.push_back(id);
  return id;
}

Result<bool> PackedDriverRing::publish() {
  if (added_.empty()) return false;
  // Release, with the device's acquire of the flags: descriptors and data precede it.
  if (!ring_.try_store_tail_release(published_.index, first_tail_)) {
    return fail_ring_access(ring_.tail(published_.index));
  }
  const std::uint32_t count = next_avail_.minus(published_, ring_.size());
  published_ = next_avail_;
  for (const std::uint16_t id : added_) buffers_[id].state = State::kVisible;
  added_.clear();
  // The flags are visible before the device's suppression is read; the device orders them the other
  // way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::uint32_t event = 0;
  if (!mem::try_load(ring_.device_event(), event)) return fail_ring_access(ring_.device_event());
  return needs_notification(std::bit_cast<PackedEvent>(event), features_, published_, count,
                            ring_.size());
}

Result<bool> PackedDriverRing::check_used(PackedTail& tail) const {
  if (in_flight_ == added_.size()) return false;
  if (!ring_.try_load_tail(next_used_.index, tail)) {
    return fail_ring_access(ring_.tail(next_used_.index));
  }
  return next_used_.is_used(tail.flags);
}

Result<std::optional<DriverUsed>> PackedDriverRing::reap() {
  PackedTail tail{};
  const auto any = check_used(tail);
  if (!any) return fail(any.error());
  if (!*any) return std::nullopt;
  if (tail.id >= ring_.size() || buffers_[tail.id].state != State::kVisible) {
    return fail(Error::peer_fault("returned chain is not in flight", tail.id));
  }
  Buffer& buffer = buffers_[tail.id];
  next_used_ = next_used_.plus(buffer.length, ring_.size());
  free_count_ = static_cast<std::uint16_t>(free_count_ + buffer.length);
  buffer = {.next_free = free_id_, .length = 0, .state = State::kFree};
  free_id_ = tail.id;
  --in_flight_;
  return DriverUsed{tail.id, tail.length};
}

Result<bool> PackedDriverRing::enable_calls() {
  const bool by_event = (features_ & kFeatureEventIdx) != 0;
  const PackedEvent event{.position = next_used_.to_word(),
                          .flags = by_event ? kPackedEventDescriptor : kPackedEventEnable};
  if (!mem::try_store(ring_.driver_event(), std::bit_cast<std::uint32_t>(event))) {
    return fail_ring_access(ring_.driver_event());
  }
  // The event is visible before the ring is read; the device orders them the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  PackedTail tail{};
  return check_used(tail);
}

Result<> PackedDriverRing::suppress_calls() {
  const PackedEvent event{.position = 0, .flags = kPackedEventDisable};
  if (!mem::try_store(ring_.driver_event(), std::bit_cast<std::uint32_t>(event))) {
    return fail_ring_access(ring_.driver_event());
  }
  return {};
}

}  // namespace guestio::virtio
