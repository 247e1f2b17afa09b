// SPDX-License-Identifier: MIT
#include "guestio/virtio/device_ring.h"

#include <limits>
#include <utility>

namespace guestio::virtio {

Result<DeviceRing> DeviceRing::create(const RingParts& parts, FeatureBits features,
                                      std::uint32_t base) {
  if (const auto* const packed = std::get_if<PackedRing>(&parts)) {
    auto queue = PackedDeviceRing::create(*packed, features, PackedBase::from_word(base));
    if (!queue) return fail(queue.error());
    return DeviceRing(std::move(*queue));
  }
  if (base > std::numeric_limits<std::uint16_t>::max()) {
    return fail(Error::peer_fault("SET_VRING_BASE over 16 bits on a split ring", base));
  }
  auto queue = SplitDeviceRing::create(std::get<SplitRing>(parts), features,
                                       static_cast<std::uint16_t>(base));
  if (!queue) return fail(queue.error());
  return DeviceRing(std::move(*queue));
}

void DeviceRing::move_to(const RingParts& parts) noexcept {
  if (auto* const queue = packed()) return queue->move_to(std::get<PackedRing>(parts));
  split()->move_to(std::get<SplitRing>(parts));
}

std::uint32_t DeviceRing::base() const noexcept {
  if (const auto* const queue = std::get_if<PackedDeviceRing>(&queue_)) {
    return queue->base().to_word();
  }
  return std::get<SplitDeviceRing>(queue_).next_avail();
}

}  // namespace guestio::virtio
