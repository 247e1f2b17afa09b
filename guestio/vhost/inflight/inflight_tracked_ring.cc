// SPDX-License-Identifier: MIT
#include "guestio/vhost/inflight/inflight_tracked_ring.h"

#include <utility>

namespace guestio::vhost {

using virtio::PopResult;

Result<InflightTrackedRing> InflightTrackedRing::create(Setup setup) {
  if (!setup.inflight) {
    auto ring = virtio::DeviceRing::create(setup.parts, setup.features, setup.base);
    if (!ring) return fail(ring.error());
    return InflightTrackedRing(std::move(*ring), nullptr, NoRecord{});
  }
  const virtio::RingKind kind = virtio::ring_kind(setup.features);
  const std::uint16_t size =
      std::visit([](const auto& parts) { return parts.size(); }, setup.parts);
  std::byte* const region = setup.inflight->region(setup.index, size);
  if (setup.inflight->kind() != kind || region == nullptr) {
    return fail(Error::peer_fault("in-flight record without room for this ring", setup.index));
  }
  return kind == virtio::RingKind::kPacked ? create_packed(std::move(setup), region)
                                           : create_split(std::move(setup), region);
}

Result<InflightTrackedRing> InflightTrackedRing::create_split(Setup setup, std::byte* region) {
  const auto& parts = std::get<virtio::SplitRing>(setup.parts);
  // Where the used ring goes on is read from the ring itself, as ever.
  auto probe = virtio::SplitDeviceRing::create(parts, setup.features, 0);
  if (!probe) return fail(probe.error());
  const std::uint16_t used_index = probe->used_index();
  SplitInflight::Left left;
  auto record = SplitInflight::open(region, parts.size(), used_index, left);
  if (!record) return fail(record.error());
  // Everything that was taken is answered or in flight.
  const auto base =
      left.is_fresh ? setup.base : static_cast<std::uint16_t>(used_index + left.heads.size());
  auto ring = virtio::DeviceRing::create(setup.parts, setup.features, base);
  if (!ring) return fail(ring.error());
  return InflightTrackedRing(std::move(*ring), std::move(setup.inflight),
                             SplitRecord{*record, std::move(left.heads)});
}

Result<InflightTrackedRing> InflightTrackedRing::create_packed(Setup setup, std::byte* region) {
  const auto& parts = std::get<virtio::PackedRing>(setup.parts);
  auto base = virtio::PackedBase::from_word(setup.base);
  if (!base.is_valid(parts.size())) {
    return fail(Error::peer_fault("place outside a packed ring", setup.base));
  }
  PackedInflight::Left left;
  auto record = PackedInflight::open(region, parts, base.used, left);
  if (!record) return fail(record.error());
  if (!left.is_fresh) {
    base = {.avail = left.used.plus(left.descriptors, parts.size()), .used = left.used};
  }
  auto ring = virtio::DeviceRing::create(setup.parts, setup.features, base.to_word());
  if (!ring) return fail(ring.error());
  if (auto withdrawn = ring->packed()->withdraw_answers(); !withdrawn) {
    return fail(withdrawn.error());
  }
  return InflightTrackedRing(std::move(*ring), std::move(setup.inflight),
                             PackedRecord{std::move(*record), std::move(left.chains)});
}

std::size_t InflightTrackedRing::resubmit_count() const noexcept {
  if (const auto* const split = std::get_if<SplitRecord>(&record_)) {
    return split->again.size() - next_again_;
  }
  if (const auto* const packed = std::get_if<PackedRecord>(&record_)) {
    return packed->again.size() - next_again_;
  }
  return 0;
}

Result<PopResult> InflightTrackedRing::pop(const mem::GuestMemory& memory, virtio::Chain& chain) {
  if (resubmit_count() != 0) return pop_again(memory, chain);
  const auto popped = ring_.pop(memory, chain);
  if (!popped) return fail(popped.error());
  if (*popped != PopResult::kChain) return *popped;
  if (auto noted = note_taken(chain); !noted) {
    chain.clear();
    return fail(noted.error());
  }
  return PopResult::kChain;
}

Result<PopResult> InflightTrackedRing::pop_again(const mem::GuestMemory& memory,
                                                 virtio::Chain& chain) {
  Result<PopResult> popped = PopResult::kNothing;
  if (auto* const packed = std::get_if<PackedRecord>(&record_)) {
    popped = ring_.packed()->pop_again(packed->again[next_again_], memory, chain);
  } else {
    const std::uint16_t head = std::get<SplitRecord>(record_).again[next_again_];
    popped = ring_.split()->pop_again(head, memory, chain);
  }
  if (popped && *popped == PopResult::kChain) ++next_again_;
  return popped;
}

Result<> InflightTrackedRing::note_taken(const virtio::Chain& chain) {
  if (auto* const split = std::get_if<SplitRecord>(&record_)) {
    return split->record.take(chain.head());
  }
  if (auto* const packed = std::get_if<PackedRecord>(&record_)) {
    return packed->record.take(ring_.packed()->fetched());
  }
  return {};
}

Result<> InflightTrackedRing::push_used(std::uint16_t head, std::uint32_t written) {
  auto pushed = ring_.push_used(head, written);
  if (pushed && memory_) answers_.push_back(head);
  return pushed;
}

Result<bool> InflightTrackedRing::publish() {
  if (answers_.empty()) return ring_.publish();
  auto* const packed = std::get_if<PackedRecord>(&record_);
  auto shown =
      packed != nullptr ? publish_packed(*packed) : publish_split(std::get<SplitRecord>(record_));
  answers_.clear();
  return shown;
}

Result<bool> InflightTrackedRing::publish_split(SplitRecord& split) {
  if (auto begun = split.record.begin_answers(answers_); !begun) return fail(begun.error());
  auto shown = ring_.publish();
  if (!shown) return shown;
  const auto ended = split.record.end_answers(answers_, ring_.split()->used_index());
  if (!ended) return fail(ended.error());
  return shown;
}

Result<bool> InflightTrackedRing::publish_packed(PackedRecord& packed) {
  const auto used = ring_.packed()->next_used();
  if (auto begun = packed.record.begin_answers(answers_, used); !begun) return fail(begun.error());
  auto shown = ring_.publish();
  if (!shown) return shown;
  if (auto ended = packed.record.end_answers(answers_); !ended) return fail(ended.error());
  return shown;
}

Result<bool> InflightTrackedRing::enable_notifications() {
  const auto available = ring_.enable_notifications();
  if (available && resubmit_count() != 0) return true;
  return available;
}

}  // namespace guestio::vhost
