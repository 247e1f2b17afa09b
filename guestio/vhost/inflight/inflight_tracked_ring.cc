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
    return fail(Error::peer_fault("in-flight record has no region for this ring", setup.index));
  }
  return kind == virtio::RingKind::kPacked ? create_packed(std::move(setup), region)
                                           : create_split(std::move(setup), region);
}

Result<InflightTrackedRing> InflightTrackedRing::create_split(Setup setup, std::byte* region) {
  const auto& parts = std::get<virtio::SplitRing>(setup.parts);
  // The used index is read from the ring itself, as always.
  auto probe = virtio::SplitDeviceRing::create(parts, setup.features, 0);
  if (!probe) return fail(probe.error());
  const std::uint16_t used_index = probe->used_index();
  SplitInflight::Recovered recovered;
  auto record = SplitInflight::open(region, parts.size(), used_index, recovered);
  if (!record) return fail(record.error());
  // Each popped chain is returned or in flight.
  const auto base = recovered.is_fresh
                        ? setup.base
                        : static_cast<std::uint16_t>(used_index + recovered.heads.size());
  auto ring = virtio::DeviceRing::create(setup.parts, setup.features, base);
  if (!ring) return fail(ring.error());
  return InflightTrackedRing(std::move(*ring), std::move(setup.inflight),
                             SplitRecord{*record, std::move(recovered.heads)});
}

Result<InflightTrackedRing> InflightTrackedRing::create_packed(Setup setup, std::byte* region) {
  const auto& parts = std::get<virtio::PackedRing>(setup.parts);
  auto base = virtio::PackedBase::from_word(setup.base);
  if (!base.is_valid(parts.size())) {
    return fail(Error::peer_fault("position outside the packed ring", setup.base));
  }
  PackedInflight::Recovered recovered;
  auto record = PackedInflight::open(region, parts, base.used, recovered);
  if (!record) return fail(record.error());
  if (!recovered.is_fresh) {
    base = {.avail = recovered.used.plus(recovered.descriptors, parts.size()),
            .used = recovered.used};
  }
  auto ring = virtio::DeviceRing::create(setup.parts, setup.features, base.to_word());
  if (!ring) return fail(ring.error());
  if (auto withdrawn = ring->packed()->withdraw_used(); !withdrawn) {
    return fail(withdrawn.error());
  }
  return InflightTrackedRing(std::move(*ring), std::move(setup.inflight),
                             PackedRecord{std::move(*record), std::move(recovered.chains)});
}

std::size_t InflightTrackedRing::resubmit_count() const noexcept {
  if (const auto* const split = std::get_if<SplitRecord>(&record_)) {
    return split->resubmit.size() - next_resubmit_;
  }
  if (const auto* const packed = std::get_if<PackedRecord>(&record_)) {
    return packed->resubmit.size() - next_resubmit_;
  }
  return 0;
}

Result<PopResult> InflightTrackedRing::pop(const mem::GuestMemory& memory, virtio::Chain& chain) {
  if (resubmit_count() != 0) return pop_resubmitted(memory, chain);
  const auto popped = ring_.pop(memory, chain);
  if (!popped) return fail(popped.error());
  if (*popped != PopResult::kChain) return *popped;
  if (auto noted = note_popped(chain); !noted) {
    chain.clear();
    return fail(noted.error());
  }
  return PopResult::kChain;
}

Result<PopResult> InflightTrackedRing::pop_resubmitted(const mem::GuestMemory& memory,
                                                       virtio::Chain& chain) {
  Result<PopResult> popped = PopResult::kNothing;
  if (auto* const packed = std::get_if<PackedRecord>(&record_)) {
    popped = ring_.packed()->pop_resubmitted(packed->resubmit[next_resubmit_], memory, chain);
  } else {
    const std::uint16_t head = std::get<SplitRecord>(record_).resubmit[next_resubmit_];
    popped = ring_.split()->pop_resubmitted(head, memory, chain);
  }
  if (popped && *popped == PopResult::kChain) ++next_resubmit_;
  return popped;
}

Result<> InflightTrackedRing::note_popped(const virtio::Chain& chain) {
  if (auto* const split = std::get_if<SplitRecord>(&record_)) {
    return split->record.note_popped(chain.head());
  }
  if (auto* const packed = std::get_if<PackedRecord>(&record_)) {
    return packed->record.note_popped(ring_.packed()->fetched());
  }
  return {};
}

Result<> InflightTrackedRing::push_used(std::uint16_t head, std::uint32_t written) {
  auto pushed = ring_.push_used(head, written);
  if (pushed && memory_) pushed_.push_back(head);
  return pushed;
}

Result<bool> InflightTrackedRing::publish() {
  if (pushed_.empty()) return ring_.publish();
  auto* const packed = std::get_if<PackedRecord>(&record_);
  auto published =
      packed != nullptr ? publish_packed(*packed) : publish_split(std::get<SplitRecord>(record_));
  pushed_.clear();
  return published;
}

Result<bool> InflightTrackedRing::publish_split(SplitRecord& split) {
  if (auto begun = split.record.begin_publish(pushed_); !begun) return fail(begun.error());
  auto published = ring_.publish();
  if (!published) return published;
  const auto ended = split.record.end_publish(pushed_, ring_.split()->used_index());
  if (!ended) return fail(ended.error());
  return published;
}

Result<bool> InflightTrackedRing::publish_packed(PackedRecord& packed) {
  const auto used = ring_.packed()->next_used();
  if (auto begun = packed.record.begin_publish(pushed_, used); !begun) return fail(begun.error());
  auto published = ring_.publish();
  if (!published) return published;
  if (auto ended = packed.record.end_publish(pushed_); !ended) return fail(ended.error());
  return published;
}

Result<bool> InflightTrackedRing::enable_notifications() {
  const auto available = ring_.enable_notifications();
  if (available && resubmit_count() != 0) return true;
  return available;
}

}  // namespace guestio::vhost
