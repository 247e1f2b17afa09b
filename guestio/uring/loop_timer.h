// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/task/timer.h"
#include "guestio/uring/awaitables.h"

namespace guestio::uring {

/// A timer of a loop. Threads: the loop's. Lifetime: the loop outlives it.
class LoopTimer final : public task::Timer {
 public:
  explicit LoopTimer(Loop& loop) noexcept : loop_(loop) {}

  task::Task<> sleep(std::chrono::nanoseconds duration, task::StopToken token) override {
    (void)co_await uring::sleep(loop_, duration, token);
  }

 private:
  Loop& loop_;
};

}  // namespace guestio::uring
