// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/channel_context.h"
#include "guestio/disk/file/flush_coalescer.h"
#include "guestio/disk/file/planned_transfer.h"
#include "guestio/disk/file/secure_erase.h"
#include "guestio/task/task.h"

namespace guestio::disk {

/// Discard, write-zeroes and secure erase. Stable ones end with a flush.
///
/// Threads: the channel's. Lifetime: outlives its operations.
class RangeOperations {
 public:
  RangeOperations(ChannelContext& context, PlannedTransfer& transfers,
                  FlushCoalescer& flushes) noexcept
      : context_(context),
        transfers_(transfers),
        flushes_(flushes),
        secure_erase_(context.loop, context.image.io().get(), context.shortages) {}

  /// Keeps partial blocks at the ends of the range, and all bytes of a file that cannot discard: a
  /// discard is a hint. Errors: host.
  task::Task<Result<>> discard(Io& io);
  /// Writes zeroes to partial blocks at the ends of the range, and to files without zeroing.
  /// Errors: host, and those of PlannedTransfer.
  task::Task<Result<>> write_zeroes(Io& io);
  /// Errors: those of SecureErase.
  task::Task<Result<>> secure_erase(Io& io);

 private:
  /// Zeroes a range aligned for fallocate.
  task::Task<Result<>> zero_aligned(FileOffset offset, std::uint64_t length, Unmap unmap,
                                    int rw_flags);
  task::Task<Result<>> write_zero_bytes(FileOffset offset, std::uint64_t length, int rw_flags);
  /// fallocate(). Errors: unsupported (errno_class.h), host.
  task::Task<Result<>> allocate(int mode, FileOffset offset, std::uint64_t length);

  ChannelContext& context_;
  PlannedTransfer& transfers_;
  FlushCoalescer& flushes_;
  SecureErase secure_erase_;
};

}  // namespace guestio::disk
