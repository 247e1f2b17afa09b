// SPDX-License-Identifier: MIT
#include "guestio/uring/iopoll_ring.h"

#include <bit>

#include "guestio/base/check.h"

namespace guestio::uring {

Result<std::unique_ptr<IopollRing>> IopollRing::create(Loop& loop) {
  auto ring = Ring::create({.mode = RingMode::kPlain, .completion = Completion::kPolled});
  if (!ring) return fail(ring.error());
  return std::unique_ptr<IopollRing>(new IopollRing(loop, std::move(*ring)));
}

IopollRing::~IopollRing() {
  GUESTIO_CHECK(in_flight_ == 0, "no operation in flight when a polled ring ends");
}

void IopollRing::start(Operation& operation) noexcept {
  GUESTIO_CHECK(loop_.is_own_thread(), "operations to be started on the loop's own thread");
  GUESTIO_CHECK(!operation.in_flight(), "an operation to be started when it is not in flight");
  ++in_flight_;
  if (!waiting_.is_empty() || !try_prepare(operation)) {
    operation.state_ = Operation::State::kQueued;
    waiting_.push_back(operation);
  }
  loop_.defer(*this);
}

bool IopollRing::try_prepare(Operation& operation) noexcept {
  io_uring_sqe* const entry = ring_.next_sqe();
  if (entry == nullptr) return false;
  operation.state_ = Operation::State::kSubmitted;
  operation.prepare(*entry);
  entry->user_data = reinterpret_cast<std::uintptr_t>(&operation);
  return true;
}

void IopollRing::run() noexcept {
  while (Operation* const operation = waiting_.front()) {
    if (!try_prepare(*operation)) break;
    operation->unlink();
  }
  // Submits, and asks the device.
  ring_.enter(Ring::Wait::kNo);
  for (unsigned left = ring_.completions_ready(); left > 0; --left) {
    const io_uring_cqe completion = ring_.pop_completion();
    // Safe: every entry has the address of an operation, which lives until it is complete.
    auto* const operation =
        std::bit_cast<Operation*>(static_cast<std::uintptr_t>(completion.user_data));
    operation->state_ = Operation::State::kIdle;
    --in_flight_;
    operation->complete(completion.res, completion.flags);
  }
  if (in_flight_ != 0) loop_.defer(*this);
}

}  // namespace guestio::uring
