// SPDX-License-Identifier: MIT
#include "guestio/uring/iopoll_ring.h"

#include "guestio/base/check.h"

namespace guestio::uring {

Result<std::unique_ptr<IopollRing>> IopollRing::create(Loop& loop) {
  auto ring = Ring::create({.mode = RingMode::kPlain, .completion = Completion::kPolled});
  if (!ring) return fail(ring.error());
  return std::unique_ptr<IopollRing>(new IopollRing(loop, std::move(*ring)));
}

IopollRing::~IopollRing() {
  GUESTIO_CHECK(in_flight_ == 0, "no operation in flight when an IOPOLL ring is destroyed");
}

void IopollRing::start(Operation& operation) noexcept {
  GUESTIO_CHECK(loop_.is_own_thread(), "operation started on the loop's own thread");
  GUESTIO_CHECK(!operation.in_flight(), "operation started while not in flight");
  ++in_flight_;
  if (!waiting_.is_empty() || !try_prepare(operation, ring_.next_sqe())) {
    set_state(operation, State::kQueued);
    waiting_.push_back(operation);
  }
  loop_.defer(*this);
}

void IopollRing::run() noexcept {
  while (Operation* const operation = waiting_.front()) {
    if (!try_prepare(*operation, ring_.next_sqe())) break;
    operation->unlink();
  }
  // Submits, and polls the device.
  ring_.enter(Ring::Wait::kNo);
  for (unsigned left = ring_.completions_ready(); left > 0; --left) {
    const io_uring_cqe completion = ring_.pop_completion();
    Operation& operation = operation_of(completion.user_data);
    set_state(operation, State::kIdle);
    --in_flight_;
    complete(operation, completion.res, completion.flags);
  }
  if (in_flight_ != 0) loop_.defer(*this);
}

}  // namespace guestio::uring
