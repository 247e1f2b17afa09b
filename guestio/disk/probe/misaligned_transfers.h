// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/buf/direct_io_limits.h"

/// Storage that corrupts direct I/O on memory inside a page, without an error.
///
/// zram does (seen on Linux 6.18): it moves reads and writes of memory that does not begin at a
/// page to another place, although the device reports a memory alignment of 512. So does everything
/// that passes such memory on to zram: partitions, loop and device-mapper devices, ext4, overlays.
/// btrfs does not pass it on.
namespace guestio::disk {

/// Whether the open file is a zram device, or is stored on one. False where the devices below are
/// unknown, as for a loop device on a file of another mount namespace.
[[nodiscard]] bool is_on_zram(int fd);

/// Whether reads to memory inside a page, aligned as `limits` require, return other bytes than
/// reads to whole pages. Tries written blocks; false for a file without any, and for an unreadable
/// one.
[[nodiscard]] bool corrupts_misaligned_reads(int fd, const buf::DirectIoLimits& limits,
                                             std::uint64_t size) noexcept;

}  // namespace guestio::disk
