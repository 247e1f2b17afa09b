// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/base/error.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/disk/disk.h"

namespace guestio::disk {

/// What was found out about an open file by asking it; nothing in it was changed.
struct FileFacts {
  bool is_block_device = false;
  ByteCount size;
  ByteCount physical_block_size = ByteCount(512);
  ByteCount range_alignment = ByteCount(1);  ///< of what fallocate takes: a device's logical block
  buf::DirectIoLimits direct;                ///< all 1 for a file that was opened without O_DIRECT
};

/// How large a regular file or block device is. Errors: host; unsupported for anything else.
Result<ByteCount> query_size(int fd);

/// Asks size, kind and block sizes, and for a file opened with O_DIRECT its limits: first statx
/// (STATX_DIOALIGN), then the block device's own numbers, then trial reads across a page. Where
/// memory inside a page gets wrong bytes (misaligned_transfers.h) it must begin at one.
/// Errors: host; unsupported for what is neither a regular file nor a block device, and for limits
/// that bounce pages cannot meet.
Result<FileFacts> probe_file(int fd);

/// The most that one call may be asked to discard or zero, or nothing when the file cannot do it.
struct RangeSupport {
  std::optional<RangeLimits> discard;
  std::optional<RangeLimits> write_zeroes;
  std::optional<RangeLimits> secure_erase;
};
/// Asks a file opened for writing. Holes are tried behind its end, where there is nothing to lose.
RangeSupport probe_range_operations(int fd, const FileFacts& facts);

}  // namespace guestio::disk
