// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/task/wait_queue.h"

namespace guestio::task {

/// A manual-reset event: stays set until reset().
/// Lifetime: the destructor checks that there are no waiters. A woken coroutine may destroy it.
/// Threads: one. Waiters are resumed on it, by the rules of WaitQueue.
class Event {
 public:
  [[nodiscard]] bool is_set() const noexcept { return is_set_; }

  /// Wakes all waiters.
  void set() noexcept {
    is_set_ = true;
    waiters_.wake_all();
  }
  void reset() noexcept { is_set_ = false; }

  class Awaiter final : public Waiter {
   public:
    Awaiter(Event& event, StopToken token) noexcept
        : Waiter(event.waiters_, token), event_(event) {}
    bool await_ready() noexcept { return event_.is_set() || Waiter::await_ready(); }

   private:
    Event& event_;
  };
  /// `co_await event.wait()` does not suspend if the event is set, whatever the state of `token`.
  [[nodiscard]] Awaiter wait(StopToken token = {}) noexcept { return Awaiter(*this, token); }

 private:
  WaitQueue waiters_;
  bool is_set_ = false;
};

}  // namespace guestio::task
