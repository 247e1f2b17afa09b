// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>

#include "guestio/task/intrusive_list.h"
#include "guestio/task/stop.h"

namespace guestio::task {

enum class WaitOutcome : bool {
  kWoken,
  kStopped,  ///< Stop was requested before the waiter was woken.
};

class WaitQueue;

/// One coroutine's entry in a WaitQueue, and its awaitable. A derived class can carry data for the
/// waker (`queue.front()`). The destructor leaves the queue; a wake-up already given is lost.
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

/// A FIFO queue of waiting coroutines.
///
///     while (!ring.has_work()) {
///       if (co_await queue.wait(token) == WaitOutcome::kStopped) co_return;
///     }
///
/// 1. wake_one() wakes the longest waiter. There are no spurious wake-ups.
/// 2. A woken coroutine is resumed before the outermost wake_…() or request_stop() on this thread's
///    stack returns. A coroutine that wakes others during its own wake-up has them resumed after
///    its next suspension, so chains of wake-ups do not grow the stack.
/// 3. The destructor checks that there are no waiters. A woken coroutine may destroy the queue.
///
/// Threads: one; coroutines are resumed on it.
class WaitQueue {
 public:
  WaitQueue() noexcept = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue();

  /// Waits for a wake-up or for `token`. Does not wait if `token` is already stopped.
  [[nodiscard]] Waiter wait(StopToken token = {}) noexcept { return Waiter(*this, token); }

  [[nodiscard]] bool is_empty() const noexcept { return waiters_.is_empty(); }
  /// The longest waiter; nullptr when empty.
  [[nodiscard]] Waiter* front() noexcept { return waiters_.front(); }

  /// Returns false when the queue is empty.
  bool wake_one() noexcept;
  /// Wakes the present waiters; one that waits again is not woken again.
  void wake_all() noexcept;
  /// Wakes `waiter` out of order. Requires: it waits in this queue.
  void wake(Waiter& waiter) noexcept;

 private:
  friend class Waiter;
  IntrusiveList<Waiter> waiters_;
};

}  // namespace guestio::task
