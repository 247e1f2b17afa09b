// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/disk/file/channel_context.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/task/wait_queue.h"

namespace guestio::disk {

/// Coalesces the flushes of a channel: one flush of the file at a time. Requests during a flush
/// share the next one, because the present one does not cover their writes.
///
///     flush of the file   |---- 1 ----|---- 2 ----|
///     requests            a   b c               d        a by 1, b and c by 2, d by 3
///
/// Threads: the channel's. Lifetime: nothing is in flight when it is destroyed.
class FlushCoalescer {
 public:
  explicit FlushCoalescer(ChannelContext& context) noexcept : context_(context) {}

  /// Waits for a flush that begins after this call. Errors: those of ImageFile::check_flush().
  task::Task<Result<>> flush();

 private:
  task::Task<> run_rounds();
  task::Task<std::int32_t> flush_once();

  ChannelContext& context_;
  bool is_flushing_ = false;  // run_rounds() runs
  std::array<task::WaitQueue, 2> waiters_;
  std::size_t next_round_ = 0;  // index of the waiters for the next flush
  Result<> result_;             // of the last flush
  task::Scope rounds_;
};

}  // namespace guestio::disk
