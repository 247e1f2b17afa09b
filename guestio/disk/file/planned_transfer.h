// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/buf/transfer_plan.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/channel_context.h"
#include "guestio/disk/file/transfer_entry.h"
#include "guestio/task/task.h"

namespace guestio::disk {

/// Reads and writes of any alignment and length. A buf::TransferPlan says which blocks go direct
/// and which through bounce memory; a plan is one vectored operation. Continues short transfers,
/// waits out shortages of the host, and bounces everything after a refusal of the file.
///
/// Threads: the channel's. Lifetime: outlives its operations.
class PlannedTransfer {
 public:
  using Window = buf::TransferPlan::Window;

  explicit PlannedTransfer(ChannelContext& context) noexcept : context_(context) {}

  /// Serves a read or write. Errors: memory fault, short transfer, host, data lost.
  task::Task<Result<>> transfer(Io& io);
  /// Moves a window between host segments and the file, in as many plans as the limits need.
  task::Task<Result<>> transfer_window(Direction direction, Window window, int rw_flags);

 private:
  /// One plan.
  task::Task<Result<>> execute(Direction direction, const buf::TransferPlan& plan,
                               const Window& window, int rw_flags);
  /// Reads the partial blocks of a write into their bounce memory.
  task::Task<Result<>> read_padding(const buf::TransferPlan& plan, std::span<std::byte> bounce);
  /// Bounce memory for one plan. Errors: of buf::BounceAccount::acquire().
  task::Task<Result<buf::TrackedBounceBuffer>> acquire_bounce(const buf::TransferPlan& plan);
  /// Moves `segments`, of which at least `needed` bytes must arrive.
  task::Task<Result<>> transfer_segments(Direction direction, std::span<buf::IoBuffer> segments,
                                         FileOffset offset, std::size_t needed, int rw_flags);

  ChannelContext& context_;
};

}  // namespace guestio::disk
