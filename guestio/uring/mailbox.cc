// SPDX-License-Identifier: MIT
#include "guestio/uring/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "guestio/base/check.h"

namespace guestio::uring {

Result<Mailbox> Mailbox::create() noexcept {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event) return fail_host("eventfd");
  return Mailbox(std::move(event));
}

Mailbox::Mailbox(Mailbox&& other) noexcept : event_(std::move(other.event_)) {
  GUESTIO_CHECK(!other.has_messages(), "mailbox moved before it is shared");
}

Mailbox::~Mailbox() {
  GUESTIO_CHECK(!has_messages(), "every posted function has run when a loop is destroyed");
}

void Mailbox::post(Message message) {
  bool is_first = false;
  {
    const std::scoped_lock lock(mutex_);
    is_first = arrived_.empty();
    arrived_.push_back(std::move(message));
    has_messages_.store(true, std::memory_order_release);
  }
  // A non-empty mailbox has signalled the eventfd already.
  if (is_first) wake();
}

void Mailbox::wake() noexcept {
  const std::uint64_t one = 1;
  // Never blocks: the counter holds 2^64 - 2 and has no other writers.
  const auto written = ::write(event_.get(), &one, sizeof(one));
  GUESTIO_CHECK(written == sizeof(one), "a write to an eventfd of ours succeeds");
}

std::size_t Mailbox::run_messages() {
  {
    const std::scoped_lock lock(mutex_);
    running_.swap(arrived_);
    has_messages_.store(false, std::memory_order_release);
  }
  for (Message& message : running_) message();
  const std::size_t count = running_.size();
  running_.clear();
  return count;
}

}  // namespace guestio::uring
