// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_connector.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <utility>

#include "guestio/base/thread.h"
#include "guestio/base/unique_fd.h"

namespace guestio::disk {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{10};
constexpr milliseconds kLongestPause{1000};
// While nobody listens: such an attempt costs a system call, or a packet of the server's host.
constexpr milliseconds kLongestPauseOfUnixSocket{20};
constexpr milliseconds kLongestPauseOfPort{40};

}  // namespace

/// Outlives the connector while its thread resolves a name.
struct NbdConnector::Shared {
  NbdTarget target;
  OnAttempt on_attempt;
  UniqueFd stop;  // readable once stopped

  std::mutex mutex;
  // protected by mutex
  bool is_stopped = false;
  bool is_resolving = false;

  /// Resolves a name, unless stopped.
  int resolve(const std::function<int()>& function) {
    {
      const std::lock_guard lock(mutex);
      if (is_stopped) return -1;
      is_resolving = true;
    }
    const int result = function();
    const std::lock_guard lock(mutex);
    is_resolving = false;
    return is_stopped ? -1 : result;
  }
  [[nodiscard]] bool has_stopped() {
    const std::lock_guard lock(mutex);
    return is_stopped;
  }
  /// Returns whether to go on.
  [[nodiscard]] bool pause(milliseconds duration) {
    pollfd poll{.fd = stop.get(), .events = POLLIN, .revents = 0};
    // An interrupted pause is a shorter one.
    (void)::poll(&poll, 1, static_cast<int>(duration.count()));
    return !has_stopped();
  }
  [[nodiscard]] NbdAttempt attempt() {
    const std::function<int(const std::function<int()>&)> in_shared =
        [this](const std::function<int()>& function) { return resolve(function); };
    auto handle = connect_to_nbd_server(target, stop.get(), target.io_timeout, in_shared);
    if (!handle) return std::unexpected(std::move(handle.error()));
    auto facts = query_nbd_export(handle->get());
    if (!facts) {
      return std::unexpected(NbdConnectFailure{
          .failure = {Error::peer_fault("NBD server violates the protocol"), facts.error()}});
    }
    return NbdOpened{std::move(*handle), *facts};
  }
};

Result<std::unique_ptr<NbdConnector>> NbdConnector::start(NbdTarget target, OnAttempt on_attempt) {
  std::unique_ptr<NbdConnector> self(new NbdConnector());
  self->shared_ = std::make_shared<Shared>();
  Shared& shared = *self->shared_;
  shared.target = std::move(target);
  shared.on_attempt = std::move(on_attempt);
  shared.stop.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!shared.stop) return fail_host("eventfd");
  auto thread = start_thread("nbd-connect", [keep = self->shared_] { run(*keep); });
  if (!thread) return fail(thread.error());
  self->thread_ = std::move(*thread);
  return self;
}

void NbdConnector::run(Shared& shared) {
  milliseconds pause = kFirstPause;
  while (true) {
    auto attempt = shared.attempt();
    if (shared.has_stopped()) return;
    const bool is_absent = !attempt && attempt.error().is_absent;
    const milliseconds longest = !is_absent                ? kLongestPause
                                 : shared.target.is_unix() ? kLongestPauseOfUnixSocket
                                                           : kLongestPauseOfPort;
    // The destructor waits for this call: the thread resolves no name.
    if (shared.on_attempt(std::move(attempt)) == Verdict::kDone) return;
    if (!shared.pause(std::min(pause, longest))) return;
    pause = std::min(2 * pause, kLongestPause);
  }
}

NbdConnector::~NbdConnector() {
  if (!thread_.joinable()) return;
  bool is_resolving = false;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->is_stopped = true;
    is_resolving = shared_->is_resolving;
  }
  const std::uint64_t one = 1;
  (void)!::write(shared_->stop.get(), &one, sizeof one);
  if (is_resolving) thread_.detach();
}

NbdAttempt connect_to_nbd_server(const NbdTarget& target) {
  struct Answer {
    std::mutex mutex;
    std::condition_variable has_come;
    std::optional<NbdAttempt> attempt;  // protected by mutex
  } answer;
  auto connector = NbdConnector::start(target, [&answer](NbdAttempt attempt) {
    const std::lock_guard lock(answer.mutex);
    answer.attempt.emplace(std::move(attempt));
    answer.has_come.notify_one();
    return NbdConnector::Verdict::kDone;
  });
  if (!connector) return std::unexpected(NbdConnectFailure{.failure = {connector.error(), {}}});
  {
    std::unique_lock lock(answer.mutex);
    // The connector observes the limit itself, except during name resolution.
    const auto limit = target.io_timeout + milliseconds(500);
    answer.has_come.wait_for(lock, limit, [&answer] { return answer.attempt.has_value(); });
  }
  connector->reset();  // nobody writes the answer any more
  if (answer.attempt) return std::move(*answer.attempt);
  return std::unexpected(NbdConnectFailure{
      .failure = {Error::make(ErrorKind::kClosed, "connect to the NBD server"),
                  fmt::format("the name {} is not resolved within {} s", target.host,
                              static_cast<double>(target.io_timeout.count()) / 1000)}});
}

}  // namespace guestio::disk
