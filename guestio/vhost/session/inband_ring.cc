// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/inband_ring.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

InbandRing::Said::Said(UniqueFd event, uring::Loop& loop, std::move_only_function<void()> say)
    : fd(std::move(event)),
      poll(loop, uring::File(fd.get()), POLLIN, [this, say = std::move(say)](std::int32_t) mutable {
        // A poll may say the same twice.
        eventfd_t count = 0;
        if (::eventfd_read(fd.get(), &count) == 0) say();
      }) {}

Result<UniqueFd> InbandRing::descriptor_for(RingEvent event) {
  std::optional<Said>& said = said_of(event);
  const bool is_kick = event == RingEvent::kKick;
  if (is_kick ? !kick_ : !said) {
    UniqueFd made(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!made) return fail(Error::host(errno, "make an event descriptor"));
    if (is_kick) {
      kick_ = std::move(made);
    } else {
      said.emplace(std::move(made), home_, [this, event] { say(event); });
      said->poll.start();
    }
  }
  return duplicate_fd(is_kick ? kick_.get() : said->fd.get());
}

void InbandRing::kick() noexcept {
  // Never waits: the descriptor is ours alone, and a counter that is full has been signalled.
  if (kick_) (void)::eventfd_write(kick_.get(), 1);
}

void InbandRing::say(RingEvent event) noexcept {
  if (event == RingEvent::kCall) {
    channel_.tell_called(index_);
  } else {
    channel_.signal_error(index_);
  }
}

void InbandRing::resend() noexcept {
  if (call_) say(RingEvent::kCall);
}

task::Task<> InbandRing::close() {
  auto pausing = freeze();
  co_await std::move(pausing);
  call_.reset();
  error_.reset();
}

task::Task<> InbandRing::freeze() {
  for (std::optional<Said>* const said : {&call_, &error_}) {
    if (!*said) continue;
    auto ended = (*said)->poll.stop();
    co_await ended;
  }
}

void InbandRing::resume() {
  for (std::optional<Said>* const said : {&call_, &error_}) {
    if (*said && !(*said)->poll.is_active()) (*said)->poll.start();
  }
}

Result<InbandState> InbandRing::snapshot() const {
  auto kick = duplicate_fd(kick_.get());
  auto call = duplicate_fd(call_ ? call_->fd.get() : -1);
  auto error = duplicate_fd(error_ ? error_->fd.get() : -1);
  if (!kick) return fail(kick.error());
  if (!call) return fail(call.error());
  if (!error) return fail(error.error());
  return InbandState{std::move(*kick), std::move(*call), std::move(*error)};
}

Result<> InbandRing::restore(InbandState events) {
  for (const UniqueFd* const event : {&events.kick, &events.call, &events.error}) {
    // Reads of one that waits would block the control thread.
    const bool is_ours =
        is_eventfd(event->get()) && (::fcntl(event->get(), F_GETFL) & O_NONBLOCK) != 0;
    if (*event && !is_ours) return fail(Error::peer_fault("an eventfd that stands for messages"));
  }
  kick_ = std::move(events.kick);
  if (events.call) {
    call_.emplace(std::move(events.call), home_, [this] { say(RingEvent::kCall); });
  }
  if (events.error) {
    error_.emplace(std::move(events.error), home_, [this] { say(RingEvent::kError); });
  }
  return {};
}

}  // namespace guestio::vhost
