// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <utility>

#include "guestio/buf/io_buffer.h"
#include "guestio/buf/segment_vector.h"
#include "guestio/mem/page_lock.h"

namespace guestio::buf {

/// The host segments of a request's guest memory, held in place for the kernel's use until this
/// goes away. Move-only. Made by RequestBuffers::lock(); of an empty request it has no segments.
///
/// Lifetime: the GuestMemory that was locked, or a copy of it, must outlive the kernel's use.
/// Nothing here notes what the kernel writes: RequestBuffers::mark_written() does.
class [[nodiscard]] LockedIoBuffers {
 public:
  // Not defaulted: a value-initialised one would have its whole inline storage zeroed first.
  LockedIoBuffers() noexcept {}
  LockedIoBuffers(LockedIoBuffers&&) noexcept = default;
  /// Unlocks what was held before.
  LockedIoBuffers& operator=(LockedIoBuffers&&) noexcept = default;
  ~LockedIoBuffers() = default;

  /// In the order of the request, none empty, joined where they meet in host memory.
  [[nodiscard]] std::span<const IoBuffer> segments() const noexcept {
    return {segments_.data(), segments_.size()};
  }

 private:
  friend class RequestBuffers;
  SegmentVector segments_;
  mem::PageLock lock_;
};

}  // namespace guestio::buf
