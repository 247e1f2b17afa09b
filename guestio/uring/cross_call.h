// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <optional>
#include <utility>

#include "guestio/uring/loop.h"

namespace guestio::uring {

/// A question to another thread, asked from a coroutine:
///
///     CrossCall<std::uint16_t> call(there, home, [&](auto reply) { vring.stop(...reply(index)...);
///     }); const std::uint16_t index = co_await call;
///
/// The function runs on the other thread's loop and calls `reply(value)` exactly once, then or
/// later, on that thread. The coroutine goes on at home. Control path only: posts allocate.
template <typename Answer>
class CrossCall {
 public:
  /// What the function calls to answer.
  class Reply {
   public:
    explicit Reply(CrossCall& call) noexcept : call_(&call) {}
    void operator()(Answer answer) const { call_->answer(std::move(answer)); }

   private:
    CrossCall* call_;
  };
  using Function = std::move_only_function<void(Reply reply)>;

  CrossCall(uring::Loop& there, uring::Loop& home, Function function)
      : there_(there), home_(home), function_(std::move(function)) {}
  CrossCall(const CrossCall&) = delete;
  CrossCall& operator=(const CrossCall&) = delete;

  [[nodiscard]] bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    handle_ = handle;
    there_.post([this] { function_(Reply(*this)); });
  }
  Answer await_resume() { return std::move(*answer_); }

 private:
  void answer(Answer answer) {
    answer_.emplace(std::move(answer));
    home_.post([handle = handle_] { handle.resume(); });
  }

  uring::Loop& there_;
  uring::Loop& home_;
  Function function_;
  std::coroutine_handle<> handle_;
  std::optional<Answer> answer_;
};

}  // namespace guestio::uring
