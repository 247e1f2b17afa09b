// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <optional>
#include <utility>

#include "guestio/uring/loop.h"

namespace guestio::uring {

/// An awaitable call on another loop's thread:
///
///     CrossCall<std::uint16_t> call(callee, caller,
///                                   [&](auto reply) { vring.stop(...reply(index)...); });
///     const std::uint16_t index = co_await call;
///
/// The function runs on the callee's thread and calls `reply(value)` exactly once, immediately or
/// later, on that thread. The coroutine resumes on the caller's thread. For control paths only:
/// posts allocate.
template <typename Value>
class CrossCall {
 public:
  /// Passed to the function, which calls it with the result.
  class Reply {
   public:
    explicit Reply(CrossCall& call) noexcept : call_(&call) {}
    void operator()(Value value) const { call_->reply(std::move(value)); }

   private:
    CrossCall* call_;
  };
  using Function = std::move_only_function<void(Reply reply)>;

  CrossCall(Loop& callee, Loop& caller, Function function)
      : callee_(callee), caller_(caller), function_(std::move(function)) {}
  CrossCall(const CrossCall&) = delete;
  CrossCall& operator=(const CrossCall&) = delete;

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    callee_.post([this] { function_(Reply(*this)); });
  }
  Value await_resume() { return std::move(*value_); }

 private:
  void reply(Value value) {
    value_.emplace(std::move(value));
    caller_.post([handle = handle_] { handle.resume(); });
  }

  Loop& callee_;
  Loop& caller_;
  Function function_;
  std::coroutine_handle<> handle_;
  std::optional<Value> value_;
};

}  // namespace guestio::uring
