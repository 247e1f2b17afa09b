// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/base/error.h"

namespace guestio::disk {

/// Whether direct reads of this open file can be finished by polling its device
/// (uring::IopollRing). Asks by reading a block that has been written: a ring for it can be set up
/// for any file, and reads of holes, which need no device, succeed where others do not.
/// `block`: what reads must be a multiple of and aligned to.
/// Errors: unsupported (no such device; no block that has been written), host.
[[nodiscard]] Result<> check_polled_reads(int fd, std::uint64_t size, std::uint64_t block);

}  // namespace guestio::disk
