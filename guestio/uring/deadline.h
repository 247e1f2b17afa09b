// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::uring {

/// A stop token with a time limit: stopped after a duration, or with its parent token.
///
///     Deadline limit(loop, seconds(2), stop);
///     ... co_await something(limit.token());
///     co_await limit.disarm();
///
/// Threads: the loop's. Lifetime: awaited disarm() comes before destruction.
class Deadline {
 public:
  Deadline(Loop& loop, std::chrono::milliseconds duration, task::StopToken parent = {})
      : limit_(parent) {
    timer_.spawn(wait(loop, duration));
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  ~Deadline() = default;

  [[nodiscard]] task::StopToken token() noexcept { return limit_.token(); }
  task::Task<> disarm();

 private:
  task::Task<> wait(Loop& loop, std::chrono::milliseconds duration);

  task::StopSource limit_;
  task::StopSource disarmed_;
  task::Scope timer_;
};

}  // namespace guestio::uring
