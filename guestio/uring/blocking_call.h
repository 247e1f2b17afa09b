// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

#include "guestio/uring/loop.h"

namespace guestio::uring {

/// Runs a blocking call without an io_uring operation on a thread of its own, while a coroutine of
/// the loop waits:
///
///     BlockingCall erase(loop, [fd] { return ::ioctl(fd, ...) == 0 ? 0 : -errno; });
///     const std::int32_t result = co_await erase;
///
/// For rare calls: each costs a thread. Callers bound the number of concurrent calls. The result is
/// the function's, or -errno if no thread can be started.
///
/// Threads: the loop's; the function runs on another thread.
class BlockingCall {
 public:
  using Function = std::move_only_function<std::int32_t()>;

  BlockingCall(Loop& loop, Function function) noexcept
      : loop_(loop), function_(std::move(function)) {}
  BlockingCall(const BlockingCall&) = delete;
  BlockingCall& operator=(const BlockingCall&) = delete;
  ~BlockingCall() = default;

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  /// Resumes at once if no thread can be started.
  bool await_suspend(std::coroutine_handle<> waiting) noexcept;
  std::int32_t await_resume();

 private:
  Loop& loop_;
  Function function_;
  std::int32_t result_ = 0;
  std::jthread thread_;
};

}  // namespace guestio::uring
