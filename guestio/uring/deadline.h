// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::uring {

/// A token that is stopped when some time has passed, or when another token is.
///
///     Deadline limit(loop, seconds(2), stop);
///     ... co_await something(limit.token());
///     auto ending = limit.disarm();
///     co_await std::move(ending);
///
/// Threads: the loop's. Lifetime: end() has been waited for when it is destroyed.
class Deadline {
 public:
  Deadline(uring::Loop& loop, std::chrono::milliseconds duration, task::StopToken parent = {})
      : limit_(parent) {
    waiting_.spawn(wait(loop, duration));
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;
  ~Deadline() = default;

  [[nodiscard]] task::StopToken token() noexcept { return limit_.token(); }
  task::Task<> disarm();

 private:
  task::Task<> wait(uring::Loop& loop, std::chrono::milliseconds duration);

  task::StopSource limit_;
  task::StopSource done_;
  task::Scope waiting_;
};

}  // namespace guestio::uring
