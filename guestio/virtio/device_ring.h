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

/// The device's side of a ring whose kind was negotiated.
namespace guestio::virtio {

/// Where the parts of a ring of either kind lie.
using RingParts = std::variant<SplitRing, PackedRing>;

/// A split or a packed queue under one interface: a branch for each call, no more. What the
/// functions do is said at SplitDeviceRing.
///
/// Threads: one at a time.
class DeviceRing {
 public:
  /// `base` is what SET_VRING_BASE carries: the available index of a split ring, both places of a
  /// packed one. Errors: memory fault, peer fault (no such place).
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
  /// What GET_VRING_BASE answers.
  [[nodiscard]] std::uint32_t base() const noexcept;

  // The one that it is, or nothing.
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
