// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/base/error.h"

namespace guestio::disk {

/// Whether polling of the device can complete direct reads of this open file (uring::IopollRing).
/// Tries a read of a written block, because any file gets a polled ring, and reads of holes need no
/// device. `block`: alignment of reads.
/// Errors: unsupported (the device cannot poll; no written block), host.
[[nodiscard]] Result<> check_polled_reads(int fd, std::uint64_t size, std::uint64_t block);

}  // namespace guestio::disk
