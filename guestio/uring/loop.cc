// SPDX-License-Identifier: MIT
#include "guestio/uring/loop.h"

#include <poll.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::uring {
namespace {

std::uint64_t to_user_data(const Operation& operation) noexcept {
  return reinterpret_cast<std::uintptr_t>(&operation);
}

}  // namespace

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
  GUESTIO_CHECK(is_own_thread(), "a loop to end on its own thread");
  GUESTIO_CHECK(in_flight() == 0, "no operation in flight when a loop ends");
  // The kernel still polls the mailbox for it, until the ring is gone; it owns no memory of ours.
  wake_up_.unlink();
  wake_up_.state_ = Operation::State::kIdle;
}

void Loop::start(Operation& operation) noexcept {
  GUESTIO_CHECK(is_own_thread(), "operations to be started on the loop's own thread");
  GUESTIO_CHECK(!operation.in_flight(), "an operation to be started when it is not in flight");
  ++statistics_.operations;
  ++in_flight_;
  operation.cancel_requested_ = false;
  if (waiting_.is_empty() && try_prepare(operation)) return;
  ++statistics_.sq_full;
  operation.state_ = Operation::State::kQueued;
  waiting_.push_back(operation);
}

void Loop::submit() noexcept {
  if (ring_.unsubmitted() != 0) ring_.enter(Ring::Wait::kNo);
}

void Loop::cancel(Operation& operation) noexcept {
  GUESTIO_CHECK(is_own_thread(), "operations to be cancelled on the loop's own thread");
  if (!operation.in_flight() || operation.cancel_requested_) return;
  operation.cancel_requested_ = true;
  ++statistics_.cancellations;
  if (operation.state_ == Operation::State::kQueued) {
    operation.unlink();
    operation.state_ = Operation::State::kCancelled;
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
  GUESTIO_CHECK(!poller.is_linked(), "a poller to be added once");
  pollers_.push_back(poller);
}

void Loop::run() noexcept {
  // Acquire: pairs with the release in stop(), what its caller did before is seen after run().
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
  GUESTIO_CHECK(is_own_thread(), "a loop to run on the thread that made it");
  ++statistics_.iterations;
  if (mailbox_.has_messages()) statistics_.posts += mailbox_.run_messages();
  reap_completions();
  const bool is_busy = run_pollers();
  run_deferred();
  prepare_waiting();
  const bool has_reason_to_sleep = idle == Idle::kSleeps || in_flight() != 0;
  if (!is_busy && has_reason_to_sleep && can_sleep()) {
    ring_.enter(Ring::Wait::kForOne);
  } else if (ring_.has_work_for_kernel()) {
    ring_.enter(Ring::Wait::kNo);
    if (!waiting_.is_empty()) ring_.wait_for_sqe();
  }
}

bool Loop::can_sleep() const noexcept {
  // A post or stop that comes after this look signals the mailbox's descriptor, which ends the
  // sleep.
  return waiting_.is_empty() && to_cancel_.is_empty() && cancelled_.is_empty() &&
         deferred_.is_empty() && !mailbox_.has_messages() &&
         !stop_requested_.load(std::memory_order_acquire);
}

bool Loop::try_prepare(Operation& operation) noexcept {
  io_uring_sqe* const entry = ring_.next_sqe();
  if (entry == nullptr) return false;
  operation.state_ = Operation::State::kSubmitted;
  operation.prepare(*entry);
  entry->user_data = to_user_data(operation);
  return true;
}

// Entries are taken by the kernel in order and a cancellation is carried out as it is taken. So it
// can only meet the operation that is meant: one that is started later at the same address has its
// entry behind this one.
bool Loop::try_prepare_cancel(Operation& operation) noexcept {
  // Its own success does not matter, the operation's completion does.
  return start_detached([&operation](io_uring_sqe& entry) {
    ::io_uring_prep_cancel64(&entry, to_user_data(operation), 0);
  });
}

void Loop::prepare_waiting() noexcept {
  while (Operation* const operation = to_cancel_.front()) {
    if (!try_prepare_cancel(*operation)) return;
    operation->unlink();
  }
  while (Operation* const operation = waiting_.front()) {
    if (!try_prepare(*operation)) return;
    operation->unlink();
  }
}

void Loop::reap_completions() noexcept {
  // Only those that are there now: a peer that signals without end must not keep us here.
  for (unsigned left = ring_.completions_ready(); left > 0; --left) {
    const io_uring_cqe completion = ring_.pop_completion();
    if (completion.user_data == kNobody) continue;
    // Safe: every other entry has the address of an operation, which lives until finish().
    auto* const operation =
        std::bit_cast<Operation*>(static_cast<std::uintptr_t>(completion.user_data));
    finish(*operation, completion.res, completion.flags);
  }
  task::IntrusiveList<Operation> due;
  due.splice_back(cancelled_);
  while (Operation* const operation = due.pop_front()) finish(*operation, -ECANCELED, 0);
}

void Loop::finish(Operation& operation, std::int32_t result, std::uint32_t flags) noexcept {
  ++statistics_.completions;
  if ((flags & IORING_CQE_F_MORE) == 0) {
    operation.unlink();  // from to_cancel_
    operation.state_ = Operation::State::kIdle;
    --in_flight_;
  }
  operation.complete(result, flags);
}

bool Loop::run_pollers() noexcept {
  if (pollers_.is_empty()) return false;
  bool is_busy = false;
  task::IntrusiveList<Poller> asked;  // each once, though they may add and remove one another
  asked.splice_back(pollers_);
  while (Poller* const poller = asked.pop_front()) {
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
  // The mailbox is looked at in every iteration anyway.
  if ((flags & IORING_CQE_F_MORE) != 0) return;
  GUESTIO_CHECK(result >= 0 || result == -ECANCELED, "the kernel to poll an eventfd of ours");
  loop_.start(*this);
}

}  // namespace guestio::uring
