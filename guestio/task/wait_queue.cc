// SPDX-License-Identifier: MIT
#include "guestio/task/wait_queue.h"

#include "guestio/base/check.h"

namespace guestio::task {
namespace {

// The woken and not yet resumed waiters. The outermost call on this thread's stack resumes them;
// nested calls only add to the list.
struct Ready {
  IntrusiveList<Waiter> waiters;
  bool is_resuming = false;
};
thread_local Ready ready_of_this_thread;

}  // namespace

void Waiter::make_ready() noexcept {
  unlink();
  stop_listening();
  ready_of_this_thread.waiters.push_back(*this);
}

void Waiter::resume_ready() noexcept {
  Ready& ready = ready_of_this_thread;
  if (ready.is_resuming) return;
  ready.is_resuming = true;
  while (Waiter* const waiter = ready.waiters.pop_front()) waiter->waiting_.resume();
  ready.is_resuming = false;
}

bool Waiter::await_ready() noexcept {
  if (!token_.stop_requested()) return false;
  outcome_ = WaitOutcome::kStopped;
  return true;
}

void Waiter::await_suspend(std::coroutine_handle<> waiting) noexcept {
  waiting_ = waiting;
  queue_.waiters_.push_back(*this);
  GUESTIO_CHECK(listen(token_), "a token that is not stopped");
}

void Waiter::on_stop() noexcept {
  outcome_ = WaitOutcome::kStopped;
  make_ready();
  resume_ready();
}

WaitQueue::~WaitQueue() {
  GUESTIO_CHECK(waiters_.is_empty(), "no waiters at the end of a wait queue");
}

void WaitQueue::wake(Waiter& waiter) noexcept {
  waiter.make_ready();
  Waiter::resume_ready();
}

bool WaitQueue::wake_one() noexcept {
  Waiter* const waiter = waiters_.front();
  if (waiter == nullptr) return false;
  wake(*waiter);
  return true;
}

void WaitQueue::wake_all() noexcept {
  while (Waiter* const waiter = waiters_.front()) waiter->make_ready();
  Waiter::resume_ready();
}

}  // namespace guestio::task
