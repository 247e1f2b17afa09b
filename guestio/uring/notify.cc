// SPDX-License-Identifier: MIT
#include "guestio/uring/notify.h"

namespace guestio::uring {

Result<EventFdNotifier> EventFdNotifier::create(int eventfd) noexcept {
  auto ring =
      Ring::create({.submission_entries = 1, .completion_entries = 2, .mode = RingMode::kPlain});
  if (!ring) return fail(ring.error());
  const int result = ::io_uring_register_eventfd(ring->raw(), eventfd);
  if (result != 0) return fail(Error::host(-result, "registering a peer's eventfd"));
  return EventFdNotifier(std::move(*ring));
}

void EventFdNotifier::notify() noexcept {
  if (!ring_) return;
  // No entry is free only when the kernel was short of memory the last time: the old one serves.
  if (io_uring_sqe* const entry = ring_->next_entry()) ::io_uring_prep_nop(entry);
  while (ring_->has_work_for_kernel()) ring_->enter(Ring::Wait::kNo);
  while (ring_->completions_ready() != 0) (void)ring_->take_completion();
}

}  // namespace guestio::uring
