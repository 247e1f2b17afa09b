// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>

#include "guestio/mem/host_segment.h"

namespace guestio::buf {

/// A run of host bytes for the kernel: a pointer and a length with the layout of `iovec`. The bytes
/// may be shared with a guest, so only the kernel and mem/recover.h access them. Does not own them.
/// A default one is empty and valid.
///
/// Locked guest memory, bounce memory and system calls share this one type, without conversions.
using IoBuffer = mem::HostSegment;

/// The same bytes for system calls.
[[nodiscard]] inline std::span<const ::iovec> as_iovecs(
    std::span<const IoBuffer> buffers) noexcept {
  return {mem::as_iovecs(buffers.data()), buffers.size()};
}

}  // namespace guestio::buf
