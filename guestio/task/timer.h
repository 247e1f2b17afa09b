// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "guestio/task/stop.h"
#include "guestio/task/task.h"

namespace guestio::task {

/// Sleeping, for code independent of the event loop. Threads: one.
class Timer {
 public:
  virtual ~Timer() = default;
  /// Completes after `duration`, or when `token` is stopped; never within this call.
  virtual Task<> sleep(std::chrono::nanoseconds duration, StopToken token) = 0;
};

}  // namespace guestio::task
