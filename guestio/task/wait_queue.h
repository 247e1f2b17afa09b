// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>

#include "guestio/task/intrusive_list.h"
#include "guestio/task/stop.h"

namespace guestio::task {

enum class WaitOutcome : bool {
  kWoken,
  kStopped,  ///< The stop token was asked to stop before anybody woke the waiter.
};

class WaitQueue;

/// One coroutine's place in a WaitQueue, and what it awaits. May be derived from, to give the waker
/// something to choose by (`queue.front()`). Destroying it, on any path, leaves no trace; a wake-up
/// that was already given to it is lost with it.
class Waiter : public ListNode<Waiter>, private StopListener {
 public:
  using ListNode<Waiter>::is_linked;
  using ListNode<Waiter>::unlink;

  explicit Waiter(WaitQueue& queue, StopToken token = {}) noexcept : queue_(queue), token_(token) {}

  bool await_ready() noexcept;
  void await_suspend(std::coroutine_handle<> waiting) noexcept;
  WaitOutcome await_resume() const noexcept { return outcome_; }

 private:
  friend class WaitQueue;
  void on_stop() noexcept override;
  void make_ready() noexcept;
  static void resume_ready() noexcept;

  WaitQueue& queue_;
  StopToken token_;
  std::coroutine_handle<> waiting_;
  WaitOutcome outcome_ = WaitOutcome::kWoken;
};

/// Coroutines that wait for something, first come first served.
///
///     while (!ring.has_work()) {
///       if (co_await queue.wait(token) == WaitOutcome::kStopped) co_return;
///     }
///
/// 1. wake_one() wakes the one that has waited longest; nobody is woken unasked.
/// 2. A woken coroutine is resumed before the outermost wake_…() or request_stop() on this thread's
///    stack returns: a coroutine that wakes others while it is being woken itself has them resumed
///    after its own next suspension, so that chains of wake-ups do not grow the stack.
/// 3. The destructor checks that nobody waits. The queue may be destroyed by a coroutine that it
///    has just woken.
///
/// Threads: one; coroutines are resumed on it.
class WaitQueue {
 public:
  WaitQueue() noexcept = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue();

  /// Waits to be woken, or for `token`; a token that is stopped already does not wait.
  [[nodiscard]] Waiter wait(StopToken token = {}) noexcept { return Waiter(*this, token); }

  [[nodiscard]] bool is_empty() const noexcept { return waiters_.is_empty(); }
  /// The one that has waited longest; nullptr when empty.
  [[nodiscard]] Waiter* front() noexcept { return waiters_.front(); }

  /// Returns false when nobody waits.
  bool wake_one() noexcept;
  /// Wakes those that wait now; one that waits again is not woken again.
  void wake_all() noexcept;
  /// Wakes `waiter` out of its turn. Requires: it waits in this queue.
  void wake(Waiter& waiter) noexcept;

 private:
  friend class Waiter;
  IntrusiveList<Waiter> waiters_;
};

}  // namespace guestio::task
