// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>

#include "guestio/uring/loop.h"

namespace guestio::uring {

/// A call that blocks and for which io_uring has no operation, on a thread of its own while a
/// coroutine of the loop waits:
///
///     BlockingCall erasing(loop, [fd] { return ::ioctl(fd, ...) == 0 ? 0 : -errno; });
///     const std::int32_t result = co_await erasing;
///
/// For what is rare: each costs a thread, so whoever lets others ask for them bounds how many run
/// at once. The result is the function's, or -errno when there is no thread to be had.
///
/// Threads: the loop's; the function runs on another one.
class BlockingCall {
 public:
  using Function = std::move_only_function<std::int32_t()>;

  BlockingCall(Loop& loop, Function function) noexcept
      : loop_(loop), function_(std::move(function)) {}
  BlockingCall(const BlockingCall&) = delete;
  BlockingCall& operator=(const BlockingCall&) = delete;
  ~BlockingCall() = default;

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  /// Goes on at once when there is no thread.
  bool await_suspend(std::coroutine_handle<> waiting) noexcept;
  std::int32_t await_resume();

 private:
  Loop& loop_;
  Function function_;
  std::int32_t result_ = 0;
  std::jthread thread_;
};

}  // namespace guestio::uring
