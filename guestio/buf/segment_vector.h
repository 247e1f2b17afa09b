// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "guestio/buf/io_buffer.h"
#include "guestio/buf/list_pool.h"

namespace guestio::buf {

/// The segments of one request, filled by GuestMemory::lock(): kInline inline ones, and more in the
/// thread's list pool, without heap allocations. Movable.
class SegmentVector final : public mem::SegmentList {
 public:
  static constexpr std::size_t kInline = 16;

  SegmentVector() noexcept : SegmentList(inline_.segments, kInline) {}
  SegmentVector(SegmentVector&& other) noexcept : SegmentVector() { take(other); }
  SegmentVector& operator=(SegmentVector&& other) noexcept {
    if (this == &other) return *this;
    release();
    take(other);
    return *this;
  }
  ~SegmentVector() { release(); }

 private:
  [[nodiscard]] bool is_inline() const noexcept { return data() == inline_.segments; }

  void release() noexcept {
    if (!is_inline()) [[unlikely]]
      ListPool::release(begin(), capacity() * sizeof(IoBuffer));
  }
  /// Requires: released.
  void take(SegmentVector& other) noexcept {
    if (other.is_inline()) {
      std::copy(other.begin(), other.end(), inline_.segments);
      use(inline_.segments, kInline, other.size());
    } else {
      use(other.begin(), other.capacity(), other.size());
    }
    other.use(other.inline_.segments, kInline, 0);
  }
  void grow() override {
    const std::size_t larger = 4 * capacity();
    auto* const storage = static_cast<IoBuffer*>(ListPool::allocate(larger * sizeof(IoBuffer)));
    std::copy(std::as_const(*this).begin(), std::as_const(*this).end(), storage);
    release();
    use(storage, larger, size());
  }

  // Uninitialised: a lock of one segment must not pay for all.
  union Storage {
    Storage() noexcept {}
    IoBuffer segments[kInline];
  } inline_;
};

}  // namespace guestio::buf
