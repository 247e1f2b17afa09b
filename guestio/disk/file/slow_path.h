// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/disk/disk.h"
#include "guestio/disk/file/channel_context.h"
#include "guestio/disk/file/flush_coalescer.h"
#include "guestio/disk/file/planned_transfer.h"
#include "guestio/disk/file/range_operations.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"

namespace guestio::disk {

/// Serves requests of every kind, each by a coroutine over the thread's ring.
///
/// Threads: the channel's. Lifetime: nothing is in flight when it is destroyed.
class SlowPath {
 public:
  explicit SlowPath(ChannelContext& context) noexcept
      : transfers_(context), flushes_(context), ranges_(context, transfers_, flushes_) {}

  /// Serves `io` from its beginning, and ends it with io.on_done().
  void start(Io& io) noexcept { requests_.spawn(serve(io)); }

 private:
  task::Task<> serve(Io& io);

  PlannedTransfer transfers_;
  FlushCoalescer flushes_;
  RangeOperations ranges_;
  task::Scope requests_;
};

}  // namespace guestio::disk
