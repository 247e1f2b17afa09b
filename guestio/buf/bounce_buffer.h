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

/// A temporary host buffer for I/O with misaligned guest memory: page-aligned or more, contiguous,
/// one segment of any size.
///
/// Not zeroed: it may hold bytes of earlier requests, even of other guests. Only bytes written into
/// it since may reach a guest (TransferPlan::copy_out() ensures that).
///
/// A buffer charged to a budget is a TrackedBounceBuffer (bounce_account.h). Move-only. Threads:
/// one at a time; any thread may release it.
class [[nodiscard]] BounceBuffer {
 public:
  /// Empty, without memory; also the state after a move.
  BounceBuffer() noexcept = default;
  /// `alignment` is a power of two, at least a page. Recycles memory of the thread, without heap
  /// allocations. Errors: too large, host (no memory).
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

  /// As requested.
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
