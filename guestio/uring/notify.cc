// SPDX-License-Identifier: MIT
#include "guestio/uring/notify.h"

namespace guestio::uring {

Result<EventFdNotifier> EventFdNotifier::create(int eventfd) noexcept {
  auto ring = Ring::create({.sq_entries = 1, .cq_entries = 8, .mode = RingMode::kPlain});
  if (!ring) return fail(ring.error());
  const int result = ::io_uring_register_eventfd(ring->raw(), eventfd);
  if (result != 0) return fail(Error::host(-result, "register the peer's eventfd"));
  return EventFdNotifier(std::move(*ring));
}

EventFdNotifier::EventFdNotifier(Ring ring) noexcept : ring_(std::move(ring)) {
  supports_msg_ring_ = ring_->supports(IORING_OP_MSG_RING);
}

void EventFdNotifier::notify() noexcept {
  if (!ring_) return;
  // Without a free SQE the last enter() met a lack of memory: its SQE is still there and serves.
  if (io_uring_sqe* const entry = ring_->next_sqe()) ::io_uring_prep_nop(entry);
  discard_completions();
}

void EventFdNotifier::discard_completions() noexcept {
  while (ring_->has_work_for_kernel()) ring_->enter(Ring::Wait::kNo);
  while (ring_->completions_ready() != 0) (void)ring_->pop_completion();
}

void EventFdNotifier::notify_with(Loop& loop) noexcept {
  if (!ring_) return;
  // Of earlier calls: further completions of a full ring would occupy kernel memory.
  discard_completions();
  // MSG_RING posts a CQE to the ring, which signals its eventfd.
  const bool is_started = supports_msg_ring_ && loop.start_detached([this](io_uring_sqe& entry) {
    ::io_uring_prep_msg_ring(&entry, ring_->raw()->ring_fd, 0, 0, 0);
  });
  if (!is_started) notify();
}

}  // namespace guestio::uring
