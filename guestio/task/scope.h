// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <cstddef>

#include "guestio/task/task.h"

namespace guestio::task {

/// What is started is waited for: the owner of tasks that nobody awaits one by one.
///
///     Scope scope;
///     scope.spawn(serve(queue));
///     ...
///     stop.request_stop();
///     co_await scope.join();
///
/// 1. A spawned task's frame is freed the moment it ends, before a joiner goes on.
/// 2. The destructor checks that no task is running: stop them and join first.
///
/// Threads: one; tasks run on the thread that spawns them.
class Scope {
 public:
  Scope() noexcept = default;
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope();

  /// Starts `task` at once; returns at its first suspension, or when it has ended.
  void spawn(Task<> task) noexcept;

  /// Tasks that have not ended.
  [[nodiscard]] std::size_t running() const noexcept { return running_; }

  class JoinAwaiter;
  /// `co_await scope.join()` goes on when no task is running, tasks spawned in the meantime
  /// included; on the thread of the last task, from within its end. The scope may be destroyed or
  /// used again then. One joiner at a time.
  [[nodiscard]] JoinAwaiter join() noexcept;

 private:
  friend class detail::PromiseBase;

  // Gives the coroutine to go on with.
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
