// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_pool.h"
#include "guestio/buf/io_buffer.h"

namespace guestio::buf {

/// Temporary host bytes for I/O that guest memory cannot take part in as it lies: page-aligned or
/// more, adjacent, one segment whatever the size.
///
/// Not zeroed: it may hold bytes of earlier requests, of other guests even. Only what has been
/// written into it since may be shown to a guest (TransferPlan::copy_out() takes care).
///
/// A buffer that counts against a budget is a TrackedBounceBuffer (bounce_buffer_tracker.h).
/// Move-only. Threads: one at a time; it may be released on another thread than it came from.
class [[nodiscard]] BounceBuffer {
 public:
  /// Of no bytes and no memory; what is left when it is moved from.
  BounceBuffer() noexcept = default;
  /// `alignment` is a power of two; below a page it is a page. Recycled memory of the thread; takes
  /// nothing from the heap. Errors: too large, host (no memory).
  [[nodiscard]] static Result<BounceBuffer> allocate(std::size_t size,
                                                     std::size_t alignment = kPageSize);
  BounceBuffer(BounceBuffer&& other) noexcept
      : segment_(std::exchange(other.segment_, {})), block_(std::exchange(other.block_, {})) {}
  BounceBuffer& operator=(BounceBuffer&& other) noexcept {
    std::swap(segment_, other.segment_);
    std::swap(block_, other.block_);
    return *this;
  }
  ~BounceBuffer() {
    if (block_.pages != 0) release();
  }

  /// As asked for.
  [[nodiscard]] std::size_t size() const noexcept { return segment_.length; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept {
    return {segment_.data, segment_.length};
  }
  /// The same bytes for the kernel: always one segment.
  [[nodiscard]] std::span<const IoBuffer> segments() const noexcept { return {&segment_, 1}; }

 private:
  BounceBuffer(const IoBuffer& segment, const BounceBlock& block) noexcept
      : segment_(segment), block_(block) {}
  void release() noexcept;

  IoBuffer segment_;
  BounceBlock block_;
};

}  // namespace guestio::buf
