// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/virtio/layout.h"

/// The parts of a split ring in this process.
namespace guestio::virtio {

/// The addresses of all parts of one split ring. The peer shares it, and may write or unmap any of
/// it at any time: access it through guestio/mem/recover.h only. Slots and ring indices count
/// modulo the size.
///
///     descriptor table (the driver's)   size × Descriptor
///     available ring   (the driver's)   flags, index, size × head, used_event
///     used ring        (the device's)   flags, index, size × UsedElement, avail_event
class SplitRing {
 public:
  /// Requires: each pointer has the bytes of its part (layout.h).
  /// Errors: invalid argument (size), misaligned.
  static Result<SplitRing> at(std::byte* descriptors, std::byte* avail, std::byte* used,
                              std::uint32_t size);

  [[nodiscard]] std::uint16_t size() const noexcept { return size_; }
  /// Requires: index < size().
  [[nodiscard]] Descriptor* descriptor(std::uint16_t index) const noexcept {
    return descriptors_ + index;
  }

  [[nodiscard]] std::uint16_t* avail_flags() const noexcept { return avail_; }
  [[nodiscard]] std::uint16_t* avail_index() const noexcept { return avail_ + 1; }
  [[nodiscard]] std::uint16_t* avail_head(std::uint16_t index) const noexcept {
    return avail_ + 2 + slot(index);
  }
  [[nodiscard]] std::uint16_t* used_event() const noexcept { return avail_ + 2 + size_; }

  [[nodiscard]] std::uint16_t* used_flags() const noexcept { return used_words_; }
  [[nodiscard]] std::uint16_t* used_index() const noexcept { return used_words_ + 1; }
  [[nodiscard]] UsedElement* used_element(std::uint16_t index) const noexcept {
    return used_elements_ + slot(index);
  }
  [[nodiscard]] std::uint16_t* avail_event() const noexcept {
    return used_words_ + 2 + std::size_t{4} * size_;
  }

 private:
  SplitRing(Descriptor* descriptors, std::uint16_t* avail, std::byte* used,
            std::uint16_t size) noexcept;
  [[nodiscard]] std::uint16_t slot(std::uint16_t index) const noexcept {
    return static_cast<std::uint16_t>(index & (size_ - 1));
  }

  Descriptor* descriptors_;
  std::uint16_t* avail_;
  std::uint16_t* used_words_;
  UsedElement* used_elements_;
  std::uint16_t size_;
};

/// The error of a ring access that faulted.
[[nodiscard]] std::unexpected<Error> fail_ring_access(const void* address) noexcept;

}  // namespace guestio::virtio
