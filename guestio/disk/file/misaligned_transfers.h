// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/buf/direct_io_limits.h"

/// Storage that takes direct I/O on memory inside a page and moves wrong bytes, without an error.
///
/// zram does (seen on Linux 6.18): reads and writes of memory that does not begin at a page end up
/// elsewhere, although the device tells that memory aligned to 512 is fine. Whatever stands on it
/// hands such memory through: partitions, loop and device-mapper devices,
/// ext4, overlays. btrfs does not.
namespace guestio::disk {

/// Whether the open file is a zram device, or stands on one. What cannot be followed (a loop device
/// on a file of another mount namespace) does not count.
[[nodiscard]] bool is_on_zram(int fd);

/// Whether reads to memory that `limits` allow, but that does not begin at a page, bring other
/// bytes than reads to whole pages do. Tried where the file has been written; false when nothing
/// is, or when it cannot be read.
[[nodiscard]] bool corrupts_misaligned_reads(int fd, const buf::DirectIoLimits& limits,
                                             std::uint64_t size) noexcept;

}  // namespace guestio::disk
