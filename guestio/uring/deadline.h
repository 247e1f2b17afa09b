// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::app {

/// A token that is stopped when some time has passed, or when another token is.
///
///     TimeLimit limit(loop, seconds(2), stop);
///     ... co_await something(limit.token());
///     auto ending = limit.end();
///     co_await std::move(ending);
///
/// Threads: the loop's. Lifetime: end() has been waited for when it is destroyed.
class TimeLimit {
 public:
  TimeLimit(uring::Loop& loop, std::chrono::milliseconds duration, task::StopToken parent = {})
      : limit_(parent) {
    waiting_.spawn(wait(loop, duration));
  }
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;
  ~TimeLimit() = default;

  [[nodiscard]] task::StopToken token() noexcept { return limit_.token(); }
  task::Task<> end();

 private:
  task::Task<> wait(uring::Loop& loop, std::chrono::milliseconds duration);

  task::StopSource limit_;
  task::StopSource done_;
  task::Scope waiting_;
};

}  // namespace guestio::app
