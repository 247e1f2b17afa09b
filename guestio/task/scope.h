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
  [[nodiscard]] std::size_t running() const noexcept { return tasks_.running; }

  class JoinAwaiter;
  /// `co_await scope.join()` completes when no task is running, including tasks spawned meanwhile.
  /// It resumes on the thread of the last task, within its end. The scope may then be destroyed or
  /// reused. One joiner at a time.
  [[nodiscard]] JoinAwaiter join() noexcept;

 private:
  detail::ScopeTasks tasks_;
};

class Scope::JoinAwaiter {
 public:
  explicit JoinAwaiter(detail::ScopeTasks& tasks) noexcept : tasks_(tasks) {}
  JoinAwaiter(const JoinAwaiter&) = delete;
  JoinAwaiter& operator=(const JoinAwaiter&) = delete;
  ~JoinAwaiter() {
    if (waiting_) tasks_.joiner = {};
  }

  bool await_ready() const noexcept { return tasks_.running == 0; }
  void await_suspend(std::coroutine_handle<> joiner) noexcept;
  void await_resume() noexcept { waiting_ = false; }

 private:
  detail::ScopeTasks& tasks_;
  bool waiting_ = false;  // destroyed while true: the joiner was destroyed, not resumed
};

inline Scope::JoinAwaiter Scope::join() noexcept { return JoinAwaiter(tasks_); }

}  // namespace guestio::task
