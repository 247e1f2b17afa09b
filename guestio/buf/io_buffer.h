// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>

namespace guestio::buf {

/// A run of host bytes that the kernel may be given: a pointer and a length with the layout of
/// `iovec`. The bytes may be shared with a guest, so they are touched only by the kernel or through
/// mem/recover.h. Does not own them. A default one is empty and safe to use in any way.
class IoBuffer {
 public:
  constexpr IoBuffer() noexcept = default;
  constexpr IoBuffer(std::byte* data, std::size_t size) noexcept : data_(data), size_(size) {}
  constexpr explicit IoBuffer(std::span<std::byte> bytes) noexcept
      : data_(bytes.data()), size_(bytes.size()) {}

  [[nodiscard]] constexpr std::byte* data() const noexcept { return data_; }
  [[nodiscard]] constexpr std::size_t size() const noexcept { return size_; }
  [[nodiscard]] constexpr bool is_empty() const noexcept { return size_ == 0; }
  [[nodiscard]] constexpr std::byte* end() const noexcept { return data_ + size_; }
  /// The bytes from `offset` on, `size` of them. Requires: they lie inside.
  [[nodiscard]] constexpr IoBuffer part(std::size_t offset, std::size_t size) const noexcept {
    return {data_ + offset, size};
  }

  friend constexpr bool operator==(const IoBuffer&, const IoBuffer&) noexcept = default;

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

static_assert(sizeof(IoBuffer) == sizeof(::iovec) && alignof(IoBuffer) == alignof(::iovec));

/// The same bytes as the system calls want them.
[[nodiscard]] inline std::span<const ::iovec> as_iovecs(std::span<const IoBuffer> buffers) noexcept {
  // Safe: both are standard-layout pairs of a pointer and a length; size, alignment and member
  // order are asserted above and in io_buffer_test.cc.
  return {reinterpret_cast<const ::iovec*>(buffers.data()), buffers.size()};
}

}  // namespace guestio::buf
