// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/inband_ring.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

InbandRing::Source::Source(UniqueFd event, uring::Loop& loop,
                           std::move_only_function<void()> on_signal)
    : fd(std::move(event)),
      poll(loop, uring::File(fd.get()), POLLIN,
           [this, on_signal = std::move(on_signal)](std::int32_t) mutable {
             // A poll may report one signal twice.
             eventfd_t count = 0;
             if (::eventfd_read(fd.get(), &count) == 0) on_signal();
           }) {}

Result<UniqueFd> InbandRing::descriptor_for(RingEvent event) {
  std::optional<Source>& source = source_of(event);
  const bool is_kick = event == RingEvent::kKick;
  if (is_kick ? !kick_ : !source) {
    UniqueFd created(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!created) return fail(Error::host(errno, "create an eventfd"));
    if (is_kick) {
      kick_ = std::move(created);
    } else {
      source.emplace(std::move(created), home_, [this, event] { send(event); });
      source->poll.start();
    }
  }
  return duplicate_fd(is_kick ? kick_.get() : source->fd.get());
}

void InbandRing::kick() noexcept {
  // Never blocks: the descriptor is ours alone, and a full counter is signalled anyway.
  if (kick_) (void)::eventfd_write(kick_.get(), 1);
}

void InbandRing::send(RingEvent event) noexcept {
  if (event == RingEvent::kCall) {
    channel_.signal_call(index_);
  } else {
    channel_.signal_error(index_);
  }
}

void InbandRing::resend() noexcept {
  if (call_) send(RingEvent::kCall);
}

task::Task<> InbandRing::close() {
  co_await freeze();
  call_.reset();
  error_.reset();
}

task::Task<> InbandRing::freeze() {
  for (std::optional<Source>* const source : {&call_, &error_}) {
    if (*source) co_await (*source)->poll.stop();
  }
}

void InbandRing::resume() {
  for (std::optional<Source>* const source : {&call_, &error_}) {
    if (*source && !(*source)->poll.is_active()) (*source)->poll.start();
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

Result<> InbandRing::restore(InbandState state) {
  for (const UniqueFd* const event : {&state.kick, &state.call, &state.error}) {
    // A read of a blocking one would stall the control thread.
    const bool is_nonblocking_eventfd =
        is_eventfd(event->get()) && (::fcntl(event->get(), F_GETFL) & O_NONBLOCK) != 0;
    if (*event && !is_nonblocking_eventfd) {
      return fail(Error::peer_fault("in-band descriptor is not a non-blocking eventfd"));
    }
  }
  kick_ = std::move(state.kick);
  if (state.call) {
    call_.emplace(std::move(state.call), home_, [this] { send(RingEvent::kCall); });
  }
  if (state.error) {
    error_.emplace(std::move(state.error), home_, [this] { send(RingEvent::kError); });
  }
  return {};
}

}  // namespace guestio::vhost
