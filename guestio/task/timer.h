// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "guestio/task/stop.h"
#include "guestio/task/task.h"

namespace guestio::task {

/// Pauses, for what must not know the event loop that it runs on. Threads: one.
class Timer {
 public:
  virtual ~Timer() = default;
  /// Ends after `duration`, or as soon as `token` is stopped; never from within this call.
  virtual Task<> sleep(std::chrono::nanoseconds duration, StopToken token) = 0;
};

}  // namespace guestio::task
