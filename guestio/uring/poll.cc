// SPDX-License-Identifier: MIT
#include "guestio/uring/poll.h"

#include <cerrno>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::uring {

MultishotPoll::MultishotPoll(Loop& loop, File file, unsigned events, Callback callback)
    : loop_(loop), file_(file), events_(events), callback_(std::move(callback)) {
  ended_.set();
}

void MultishotPoll::start() noexcept {
  GUESTIO_CHECK(!is_active(), "poll started while not active");
  is_stopping_ = false;
  ended_.reset();
  loop_.start(*this);
}

task::Event::Awaiter MultishotPoll::stop() noexcept {
  if (is_active()) {
    is_stopping_ = true;
    loop_.cancel(*this);
  }
  return ended_.wait();
}

void MultishotPoll::prepare(io_uring_sqe& entry) noexcept {
  ::io_uring_prep_poll_multishot(&entry, -1, events_);
  file_.apply_to(entry);
}

void MultishotPoll::complete(std::int32_t result, std::uint32_t flags) noexcept {
  const bool is_last = (flags & IORING_CQE_F_MORE) == 0;
  const bool has_failed = result < 0 && result != -ECANCELED;
  if (result >= 0 && !is_stopping_) callback_(result);
  if (!is_last) return;
  if (!is_stopping_ && !has_failed) return loop_.start(*this);
  const bool reports_error = !is_stopping_;  // then nobody awaits stop(), and this survives set()
  ended_.set();                              // destroys this if stop() is awaited
  if (reports_error) callback_(result);
}

}  // namespace guestio::uring
