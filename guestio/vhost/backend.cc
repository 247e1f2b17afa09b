// SPDX-License-Identifier: MIT
#include "guestio/vhost/backend.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>

#include "guestio/uring/awaitables.h"
#include "guestio/vhost/peer_log.h"

namespace guestio::vhost {

namespace {

/// Errors of accept() that pass: a peer that was gone at once, or a lack of descriptors or memory.
bool is_passing(std::int32_t result) noexcept {
  return result == -EINTR || result == -EAGAIN || result == -ECONNABORTED || result == -EMFILE ||
         result == -ENFILE || result == -ENOBUFS || result == -ENOMEM || result == -EPROTO;
}

}  // namespace

Result<std::unique_ptr<Backend>> Backend::create(const Parts& parts, std::uint16_t queues,
                                                 const QueueHandlerFactory& make_handler) {
  std::unique_ptr<Backend> self(new Backend(parts.home, parts.device, parts.name));
  for (std::uint16_t i = 0; i < queues; ++i) {
    auto queue = Queue::create(parts.threads.next(), i, make_handler,
                               fmt::format("{} queue {}", parts.name, i));
    if (!queue) return fail(queue.error());
    self->queues_.push_back(std::move(*queue));
  }
  return self;
}

task::Task<Result<>> Backend::accept_all(int listening_socket) {
  while (!stop_.stop_requested()) {
    const std::int32_t accepted =
        co_await uring::accept(home_, uring::File(listening_socket), SOCK_CLOEXEC, stop_.token());
    if (accepted == -ECANCELED) break;
    if (is_passing(accepted)) {
      (void)co_await uring::sleep(home_, std::chrono::milliseconds(10), stop_.token());
      continue;
    }
    if (accepted < 0) co_return fail(Error::host(-accepted, "accept a front-end"));
    auto serving = serve_one(UniqueFd(accepted));
    co_await std::move(serving);
  }
  co_return Result<>();
}

task::Task<> Backend::serve_one(UniqueFd socket) {
  if (stop_.stop_requested()) co_return;
  log::limited_info(peer_visit_log(), "{}: a front-end is here", name_);
  session_ = std::make_unique<Session>(
      Session::Parts{.home = home_,
                     .device = device_,
                     .queues = queues_,
                     .ring_features = ring_features_,
                     .fixed = registers_memory_ ? std::make_shared<FixedGuestMemory>() : nullptr,
                     .name = name_},
      std::move(socket));
  auto running = session_->run();
  co_await std::move(running);
  session_.reset();
  log::limited_info(peer_visit_log(), "{}: the front-end is gone", name_);
}

void Backend::stop() noexcept {
  stop_.request_stop();
  if (session_) session_->leave();
}

}  // namespace guestio::vhost
