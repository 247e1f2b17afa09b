// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <variant>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/packed_device_ring.h"
#include "guestio/virtio/split_device_ring.h"

/// The device side of a ring of the negotiated kind.
namespace guestio::virtio {

/// The parts of a ring of either kind.
using RingParts = std::variant<SplitRing, PackedRing>;

/// A split or a packed ring under one interface, at the cost of one branch for each call. The
/// functions are documented at SplitDeviceRing.
///
/// Threads: one at a time.
class DeviceRing {
 public:
  /// `base`: as in SET_VRING_BASE, the available index of a split ring, both positions of a packed
  /// one. Errors: memory fault, peer fault (no such position).
  static Result<DeviceRing> create(const RingParts& parts, FeatureBits features,
                                   std::uint32_t base);

  Result<PopResult> pop(const mem::GuestMemory& memory, Chain& chain) {
    return std::visit([&](auto& queue) { return queue.pop(memory, chain); }, queue_);
  }
  Result<> push_used(std::uint16_t head, std::uint32_t written) {
    return std::visit([&](auto& queue) { return queue.push_used(head, written); }, queue_);
  }
  Result<bool> publish() {
    return std::visit([](auto& queue) { return queue.publish(); }, queue_);
  }
  void force_next_call() noexcept {
    std::visit([](auto& queue) { queue.force_next_call(); }, queue_);
  }
  Result<bool> enable_notifications() {
    return std::visit([](auto& queue) { return queue.enable_notifications(); }, queue_);
  }
  Result<> suppress_notifications() {
    return std::visit([](auto& queue) { return queue.suppress_notifications(); }, queue_);
  }
  /// Requires: parts of the same kind and size.
  void move_to(const RingParts& parts) noexcept;

  [[nodiscard]] std::uint16_t size() const noexcept {
    return std::visit([](const auto& queue) { return queue.size(); }, queue_);
  }
  [[nodiscard]] std::uint32_t in_flight() const noexcept {
    return std::visit([](const auto& queue) { return queue.in_flight(); }, queue_);
  }
  /// The reply to GET_VRING_BASE.
  [[nodiscard]] std::uint32_t base() const noexcept;

  // Null for the other kind.
  [[nodiscard]] SplitDeviceRing* split() noexcept { return std::get_if<SplitDeviceRing>(&queue_); }
  [[nodiscard]] PackedDeviceRing* packed() noexcept {
    return std::get_if<PackedDeviceRing>(&queue_);
  }

 private:
  using Queue = std::variant<SplitDeviceRing, PackedDeviceRing>;
  explicit DeviceRing(Queue queue) noexcept : queue_(std::move(queue)) {}

  Queue queue_;
};

}  // namespace guestio::virtio
