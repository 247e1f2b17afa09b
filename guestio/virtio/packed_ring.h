// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/virtio/packed_layout.h"

/// The parts of a packed ring in this process.
namespace guestio::virtio {

/// The addresses of all parts of one packed ring. The peer shares it, and may write or unmap any of
/// it at any time: access it through guestio/mem/recover.h only.
///
///     descriptor ring  (both sides')    size × PackedDescriptor
///     driver's event   (the driver's)   suppression of calls
///     device's event   (the device's)   suppression of kicks
class PackedRing {
 public:
  /// Requires: `descriptors` has packed_ring_bytes(size), the others a PackedEvent each.
  /// Errors: invalid argument (size), misaligned.
  static Result<PackedRing> at(std::byte* descriptors, std::byte* driver_event,
                               std::byte* device_event, std::uint32_t size);

  [[nodiscard]] std::uint16_t size() const noexcept { return size_; }
  // Requires: index < size().
  [[nodiscard]] std::uint64_t* address(std::uint16_t index) const noexcept {
    return words_ + std::size_t{2} * index;
  }
  [[nodiscard]] std::uint64_t* tail(std::uint16_t index) const noexcept {
    return words_ + std::size_t{2} * index + 1;
  }
  [[nodiscard]] std::uint32_t* driver_event() const noexcept { return driver_event_; }
  [[nodiscard]] std::uint32_t* device_event() const noexcept { return device_event_; }

  // One access each. Errors: false on a fault.
  [[nodiscard]] bool try_load_address(std::uint16_t index, std::uint64_t& to) const noexcept;
  [[nodiscard]] bool try_store_address(std::uint16_t index, std::uint64_t from) const noexcept;
  /// Acquire: the peer's writes before it passed the descriptor on are visible.
  [[nodiscard]] bool try_load_tail(std::uint16_t index, PackedTail& to) const noexcept;
  [[nodiscard]] bool try_store_tail(std::uint16_t index, PackedTail from) const noexcept;
  /// Release: the partner of the peer's try_load_tail().
  [[nodiscard]] bool try_store_tail_release(std::uint16_t index, PackedTail from) const noexcept;

 private:
  PackedRing(std::uint64_t* words, std::uint32_t* driver_event, std::uint32_t* device_event,
             std::uint16_t size) noexcept
      : words_(words), driver_event_(driver_event), device_event_(device_event), size_(size) {}

  std::uint64_t* words_;  // two for each descriptor: address and tail
  std::uint32_t* driver_event_;
  std::uint32_t* device_event_;
  std::uint16_t size_;
};

}  // namespace guestio::virtio
