// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <cstddef>

#include "guestio/task/task.h"

namespace guestio::task {

/// Structured concurrency: owns spawned tasks, and join() awaits all of them.
///
///     Scope scope;
///     scope.spawn(serve(queue));
///     ...
///     stop.request_stop();
///     co_await scope.join();
///
/// 1. The frame of a spawned task is freed at its end, before the joiner is resumed.
/// 2. The destructor checks that no task is running: stop and join them first.
///
/// Threads: one; tasks run on the spawning thread.
class Scope {
 public:
  Scope() noexcept = default;
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope();

  /// Starts `task` immediately. Returns at its first suspension or its end.
  void spawn(Task<> task) noexcept;

  /// The number of unfinished tasks.
  [[nodiscard]] std::size_t running() const noexcept { return running_; }

  class JoinAwaiter;
  /// `co_await scope.join()` completes when no task is running, including tasks spawned meanwhile.
  /// It resumes on the thread of the last task, within its end. The scope may then be destroyed or
  /// reused. One joiner at a time.
  [[nodiscard]] JoinAwaiter join() noexcept;

 private:
  friend class detail::PromiseBase;

  // Returns the coroutine to resume next.
  std::coroutine_handle<> task_ended() noexcept;

  std::size_t running_ = 0;
  std::coroutine_handle<> joiner_;
};

class Scope::JoinAwaiter {
 public:
  explicit JoinAwaiter(Scope& scope) noexcept : scope_(scope) {}
  JoinAwaiter(const JoinAwaiter&) = delete;
  JoinAwaiter& operator=(const JoinAwaiter&) = delete;
  ~JoinAwaiter() {
    if (waiting_) scope_.joiner_ = {};
  }

  bool await_ready() const noexcept { return scope_.running_ == 0; }
  void await_suspend(std::coroutine_handle<> joiner) noexcept;
  void await_resume() noexcept { waiting_ = false; }

 private:
  Scope& scope_;
  bool waiting_ = false;  // destroyed while true: the joiner was destroyed, not resumed
};

inline Scope::JoinAwaiter Scope::join() noexcept { return JoinAwaiter(*this); }

}  // namespace guestio::task
