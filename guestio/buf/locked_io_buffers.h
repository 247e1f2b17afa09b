// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include "guestio/buf/io_buffer.h"
#include "guestio/buf/pool_vector.h"
#include "guestio/mem/guest_memory.h"

namespace guestio::buf {

/// The host segments of a request's guest memory, held in place for the kernel's use until this goes
/// away. Move-only. Made by RequestBuffers::lock(); of an empty request it has no segments.
///
/// The map that the memory came from must be kept (a GuestMemory) until the kernel is done.
class [[nodiscard]] LockedIoBuffers {
 public:
  LockedIoBuffers() noexcept = default;

  [[nodiscard]] std::span<const IoBuffer> segments() const noexcept {
    return {segments_.data(), segments_.size()};
  }

 private:
  friend class RequestBuffers;
  PoolVector<IoBuffer, 16> segments_;
  mem::PageLock lock_;
};

}  // namespace guestio::buf
