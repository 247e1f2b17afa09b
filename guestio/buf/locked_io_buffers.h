// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/buf/segment_vector.h"
#include "guestio/mem/any_range.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/page_lock.h"

namespace guestio::buf {

/// The host segments of a request's guest memory, locked in place for the kernel for the lifetime
/// of this object. Move-only. Made by RequestBuffers::lock(); an empty request has no segments.
///
/// Lifetime: the locked GuestMemory, or a copy of it, outlives the kernel's use. The kernel's
/// writes are not logged here: call RequestBuffers::mark_written().
class [[nodiscard]] LockedIoBuffers {
 public:
  // Not defaulted: value initialisation would zero the inline storage.
  LockedIoBuffers() noexcept {}
  LockedIoBuffers(LockedIoBuffers&&) noexcept = default;
  /// Unlocks the previous segments.
  LockedIoBuffers& operator=(LockedIoBuffers&&) noexcept = default;
  ~LockedIoBuffers() = default;

  /// In the order of the request, none empty, merged where adjacent in host memory.
  [[nodiscard]] std::span<const IoBuffer> segments() const noexcept {
    return {segments_.data(), segments_.size()};
  }

  /// Locks `range`. For RequestBuffers::lock(). Requires: nothing is locked. Errors: as
  /// GuestMemory::lock(); nothing is locked then.
  [[nodiscard]] Result<> lock(const mem::GuestMemory& memory, const mem::AnyRange& range,
                              mem::Access access) {
    return memory.lock_into(lock_, range, access, segments_);
  }

 private:
  SegmentVector segments_;
  mem::PageLock lock_;
};

}  // namespace guestio::buf
