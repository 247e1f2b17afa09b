// SPDX-License-Identifier: MIT
#pragma once

#include <optional>

#include "guestio/base/error.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/disk/disk.h"

namespace guestio::disk {

/// Facts of an open file, probed without modifying it.
struct FileFacts {
  bool is_block_device = false;
  ByteCount size;
  ByteCount physical_block_size = ByteCount(512);
  ByteCount range_alignment = ByteCount(1);  ///< of fallocate: a device's logical block
  buf::DirectIoLimits direct;                ///< all 1 for a file opened without O_DIRECT
};

/// Size of a regular file or block device. Errors: host; unsupported for anything else.
Result<ByteCount> query_size(int fd);

/// Probes size, kind and block sizes, and the direct I/O limits of a file opened with O_DIRECT.
/// Sources of the limits, in this order: statx (STATX_DIOALIGN), the block device's logical block,
/// trial reads across a page. Storage that corrupts transfers to memory inside a page
/// (misaligned_transfers.h) gets a memory alignment of one page.
/// Errors: host; unsupported for anything but a regular file or block device, and for limits beyond
/// bounce pages.
Result<FileFacts> probe_file(int fd);

/// Whether a block device opened for writing supports secure erase. Modifies nothing.
[[nodiscard]] bool can_secure_erase(int fd) noexcept;

/// Limits of one call; absent without support.
struct RangeSupport {
  std::optional<RangeLimits> discard;
  std::optional<RangeLimits> write_zeroes;
  std::optional<RangeLimits> secure_erase;
};
/// Probes a file opened for writing. Punches a hole past its end, where no data is.
RangeSupport probe_range_operations(int fd, const FileFacts& facts);

}  // namespace guestio::disk
