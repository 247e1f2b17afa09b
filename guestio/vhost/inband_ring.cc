// SPDX-License-Identifier: MIT
#include "guestio/vhost/inband_ring.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <utility>

namespace guestio::vhost {

InbandRing::Said::Said(UniqueFd event, uring::Loop& loop, std::move_only_function<void()> say)
    : fd(std::move(event)),
      poll(loop, uring::File(fd.get()), POLLIN, [this, say = std::move(say)](std::int32_t) mutable {
        // A poll may say the same twice.
        eventfd_t count = 0;
        if (::eventfd_read(fd.get(), &count) == 0) say();
      }) {
  poll.start();
}

Result<UniqueFd> InbandRing::descriptor_for(RingEvent event) {
  const auto copy_of = [](const UniqueFd& fd) -> Result<UniqueFd> {
    UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy) return fail(Error::host(errno, "copy an event descriptor"));
    return copy;
  };
  std::optional<Said>& said = event == RingEvent::kCall ? call_ : error_;
  const bool is_kick = event == RingEvent::kKick;
  if (is_kick ? !kick_ : !said) {
    UniqueFd made(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!made) return fail(Error::host(errno, "make an event descriptor"));
    if (is_kick) {
      kick_ = std::move(made);
    } else {
      said.emplace(std::move(made), home_, [this, event] { say(event); });
    }
  }
  return copy_of(is_kick ? kick_ : said->fd);
}

void InbandRing::kick() noexcept {
  // Never waits: the descriptor is ours alone, and a counter that is full has been signalled.
  if (kick_) (void)::eventfd_write(kick_.get(), 1);
}

void InbandRing::say(RingEvent event) noexcept {
  if (event == RingEvent::kCall) {
    channel_.tell_called(index_);
  } else {
    channel_.tell_broken(index_);
  }
}

void InbandRing::say_again() noexcept {
  if (call_) say(RingEvent::kCall);
}

task::Task<> InbandRing::close() {
  for (std::optional<Said>* const said : {&call_, &error_}) {
    if (!*said) continue;
    auto ended = (*said)->poll.stop();
    co_await ended;
    said->reset();
  }
}

}  // namespace guestio::vhost
