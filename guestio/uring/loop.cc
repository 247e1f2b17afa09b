// SPDX-License-Identifier: MIT
#include "guestio/uring/loop.h"

#include <poll.h>

#include <cerrno>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::uring {

Result<std::unique_ptr<Loop>> Loop::create(const LoopOptions& options) {
  auto ring = Ring::create(options.ring);
  if (!ring) return fail(ring.error());
  auto mailbox = Mailbox::create();
  if (!mailbox) return fail(mailbox.error());
  return std::unique_ptr<Loop>(new Loop(std::move(*ring), std::move(*mailbox), options));
}

Loop::Loop(Ring ring, Mailbox mailbox, const LoopOptions& options) noexcept
    : ring_(std::move(ring)),
      files_(ring_, options.file_slots),
      registered_buffers_(ring_, options.buffer_slots),
      mailbox_(std::move(mailbox)),
      wake_up_(*this) {
  start(wake_up_);
}

Loop::~Loop() {
  GUESTIO_CHECK(is_own_thread(), "loop destroyed on its own thread");
  GUESTIO_CHECK(in_flight() == 0, "no operation in flight when a loop is destroyed");
  // The kernel polls the mailbox until the ring is closed; the poll refers to no memory of ours.
  wake_up_.unlink();
  set_state(wake_up_, State::kIdle);
}

void Loop::start(Operation& operation) noexcept {
  GUESTIO_CHECK(is_own_thread(), "operation started on the loop's own thread");
  GUESTIO_CHECK(!operation.in_flight(), "operation started while not in flight");
  ++statistics_.operations;
  ++in_flight_;
  reset_cancel(operation);
  if (waiting_.is_empty() && try_prepare(operation, ring_.next_sqe())) return;
  ++statistics_.sq_full;
  set_state(operation, State::kQueued);
  waiting_.push_back(operation);
}

void Loop::submit() noexcept {
  if (ring_.unsubmitted() != 0) ring_.enter(Ring::Wait::kNo);
}

void Loop::cancel(Operation& operation) noexcept {
  GUESTIO_CHECK(is_own_thread(), "operation cancelled on the loop's own thread");
  if (!operation.in_flight() || request_cancel(operation)) return;
  ++statistics_.cancellations;
  if (state_of(operation) == State::kQueued) {
    operation.unlink();
    set_state(operation, State::kCancelled);
    cancelled_.push_back(operation);
    return;
  }
  if (!to_cancel_.is_empty() || !try_prepare_cancel(operation)) to_cancel_.push_back(operation);
}

std::size_t Loop::in_flight() const noexcept { return in_flight_ - (wake_up_.in_flight() ? 1 : 0); }

void Loop::defer(Deferred& deferred) noexcept {
  if (!deferred.is_linked()) deferred_.push_back(deferred);
}

void Loop::add_poller(Poller& poller) noexcept {
  GUESTIO_CHECK(!poller.is_linked(), "poller added once");
  pollers_.push_back(poller);
}

void Loop::run() noexcept {
  // Acquire: pairs with the release in stop(); the caller's earlier writes are visible after run().
  do {
    iterate(Idle::kSleeps);
  } while (!stop_requested_.load(std::memory_order_acquire) || mailbox_.has_messages());
  stop_requested_.store(false, std::memory_order_relaxed);
}

void Loop::stop() noexcept {
  stop_requested_.store(true, std::memory_order_release);
  mailbox_.wake();
}

void Loop::run_until_idle() noexcept {
  while (in_flight() != 0 || mailbox_.has_messages() || !deferred_.is_empty()) {
    iterate(Idle::kReturns);
  }
}

void Loop::iterate(Idle idle) noexcept {
  GUESTIO_CHECK(is_own_thread(), "loop run on the thread of its creation");
  ++statistics_.iterations;
  if (mailbox_.has_messages()) statistics_.posts += mailbox_.run_messages();
  reap_completions();
  const bool is_busy = run_pollers();
  run_deferred();
  prepare_waiting();
  const bool expects_events = idle == Idle::kSleeps || in_flight() != 0;
  if (!is_busy && expects_events && can_sleep()) {
    ring_.enter(Ring::Wait::kForOne);
  } else if (ring_.has_work_for_kernel()) {
    ring_.enter(Ring::Wait::kNo);
    if (!waiting_.is_empty()) ring_.wait_for_sqe();
  }
}

bool Loop::can_sleep() const noexcept {
  // A later post or stop signals the mailbox's eventfd, which ends the sleep.
  return waiting_.is_empty() && to_cancel_.is_empty() && cancelled_.is_empty() &&
         deferred_.is_empty() && !mailbox_.has_messages() &&
         !stop_requested_.load(std::memory_order_acquire);
}

// The kernel takes SQEs in order and executes a cancellation while taking its SQE. So the
// cancellation cannot match a later operation at the same address: that SQE follows this one.
bool Loop::try_prepare_cancel(Operation& operation) noexcept {
  // Only the completion of the operation matters, not that of the cancellation.
  return start_detached([&operation](io_uring_sqe& entry) {
    ::io_uring_prep_cancel64(&entry, user_data_of(operation), 0);
  });
}

void Loop::prepare_waiting() noexcept {
  while (Operation* const operation = to_cancel_.front()) {
    if (!try_prepare_cancel(*operation)) return;
    operation->unlink();
  }
  while (Operation* const operation = waiting_.front()) {
    if (!try_prepare(*operation, ring_.next_sqe())) return;
    operation->unlink();
  }
}

void Loop::reap_completions() noexcept {
  // Only the present completions: a peer with endless signals must not occupy the loop.
  for (unsigned left = ring_.completions_ready(); left > 0; --left) {
    const io_uring_cqe completion = ring_.pop_completion();
    if (completion.user_data == kDetached) continue;
    finish(operation_of(completion.user_data), completion.res, completion.flags);
  }
  task::IntrusiveList<Operation> due;
  due.splice_back(cancelled_);
  while (Operation* const operation = due.pop_front()) finish(*operation, -ECANCELED, 0);
}

void Loop::finish(Operation& operation, std::int32_t result, std::uint32_t flags) noexcept {
  ++statistics_.completions;
  if ((flags & IORING_CQE_F_MORE) == 0) {
    operation.unlink();  // from to_cancel_
    set_state(operation, State::kIdle);
    --in_flight_;
  }
  complete(operation, result, flags);
}

bool Loop::run_pollers() noexcept {
  if (pollers_.is_empty()) return false;
  bool is_busy = false;
  task::IntrusiveList<Poller> due;  // each once, although pollers may add and remove one another
  due.splice_back(pollers_);
  while (Poller* const poller = due.pop_front()) {
    pollers_.push_back(*poller);
    is_busy |= poller->poll();
  }
  return is_busy;
}

void Loop::run_deferred() noexcept {
  task::IntrusiveList<Deferred> due;
  due.splice_back(deferred_);
  while (Deferred* const deferred = due.pop_front()) deferred->run();
}

LoopStatistics Loop::statistics() const noexcept {
  LoopStatistics all = statistics_;
  all.enter_calls = ring_.enter_calls();
  return all;
}

void Loop::WakeUp::prepare(io_uring_sqe& entry) noexcept {
  ::io_uring_prep_poll_multishot(&entry, loop_.mailbox_.descriptor(), POLLIN);
}

void Loop::WakeUp::complete(std::int32_t result, std::uint32_t flags) noexcept {
  // Every iteration checks the mailbox anyway.
  if ((flags & IORING_CQE_F_MORE) != 0) return;
  GUESTIO_CHECK(result >= 0 || result == -ECANCELED, "the kernel polls an eventfd of ours");
  loop_.start(*this);
}

}  // namespace guestio::uring
