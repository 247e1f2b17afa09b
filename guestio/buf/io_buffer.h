// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>

#include "guestio/mem/host_segment.h"

namespace guestio::buf {

/// A run of host bytes that the kernel may be given: a pointer and a length with the layout of
/// `iovec`. The bytes may be shared with a guest, so they are touched only by the kernel or through
/// mem/recover.h. Does not own them. A default one is empty and safe to use in any way.
///
/// It is what guest memory is locked as, what bounce memory is made of and what system calls take:
/// one type, so that nothing is converted between them.
using IoBuffer = mem::HostSegment;

/// The same bytes as the system calls want them.
[[nodiscard]] inline std::span<const ::iovec> as_iovecs(
    std::span<const IoBuffer> buffers) noexcept {
  return {mem::as_iovecs(buffers.data()), buffers.size()};
}

}  // namespace guestio::buf
