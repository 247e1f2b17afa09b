// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <variant>

#include "guestio/base/error.h"
#include "guestio/virtio/driver_chain.h"
#include "guestio/virtio/packed_driver_ring.h"
#include "guestio/virtio/split_driver_ring.h"

/// The driver side of a ring of the negotiated kind.
namespace guestio::virtio {

/// A split or a packed ring under one interface. The functions are documented at SplitDriverRing.
///
/// Threads: one at a time.
class DriverRing {
 public:
  explicit DriverRing(SplitDriverRing queue) noexcept : queue_(std::move(queue)) {}
  explicit DriverRing(PackedDriverRing queue) noexcept : queue_(std::move(queue)) {}

  Result<std::uint16_t> add(std::span<const DriverSegment> segments) {
    return std::visit([&](auto& queue) { return queue.add(segments); }, queue_);
  }
  Result<std::uint16_t> add_indirect(std::span<const DriverSegment> segments,
                                     const DriverTable& table) {
    return std::visit([&](auto& queue) { return queue.add_indirect(segments, table); }, queue_);
  }
  Result<bool> publish() {
    return std::visit([](auto& queue) { return queue.publish(); }, queue_);
  }
  Result<std::optional<DriverUsed>> reap() {
    return std::visit([](auto& queue) { return queue.reap(); }, queue_);
  }
  Result<bool> enable_calls() {
    return std::visit([](auto& queue) { return queue.enable_calls(); }, queue_);
  }
  Result<> suppress_calls() {
    return std::visit([](auto& queue) { return queue.suppress_calls(); }, queue_);
  }

  [[nodiscard]] bool is_packed() const noexcept {
    return std::holds_alternative<PackedDriverRing>(queue_);
  }
  [[nodiscard]] std::uint16_t size() const noexcept {
    return std::visit([](const auto& queue) { return queue.size(); }, queue_);
  }
  [[nodiscard]] std::uint16_t free_descriptors() const noexcept {
    return std::visit([](const auto& queue) { return queue.free_descriptors(); }, queue_);
  }
  [[nodiscard]] std::uint16_t in_flight() const noexcept {
    return std::visit([](const auto& queue) { return queue.in_flight(); }, queue_);
  }
  /// The reply to GET_VRING_BASE once the device has returned all published chains.
  [[nodiscard]] std::uint32_t end_base() const noexcept {
    if (const auto* const packed = std::get_if<PackedDriverRing>(&queue_)) {
      return packed->next_avail().to_word() * 0x1'0001u;
    }
    return std::get<SplitDriverRing>(queue_).avail_index();
  }

 private:
  std::variant<SplitDriverRing, PackedDriverRing> queue_;
};

}  // namespace guestio::virtio
