// SPDX-License-Identifier: MIT
#include "apps/guestio-load/jobs.h"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <utility>

#include "guestio/base/thread.h"

namespace guestio::load {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTick(200);

// Written by the signal handler, read by the control thread: 0 or 1.
std::atomic<int> is_signalled = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int) { is_signalled.store(1, std::memory_order_relaxed); }

/// Whether the backend closes the connection within `limit`. It sends nothing meanwhile.
bool is_closed_within(int fd, milliseconds limit) {
  pollfd poller{.fd = fd, .events = POLLRDHUP, .revents = 0};
  return ::poll(&poller, 1, static_cast<int>(limit.count())) > 0;
}

/// The state of the start barrier of the job threads.
enum class Start : std::uint8_t { kWait, kRun, kCancel };

void release(std::atomic<Start>& start, Start state) {
  start = state;
  start.notify_all();
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  struct sigaction before{};
  ::sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &action, nullptr);
}

bool is_interrupted() noexcept { return is_signalled.load(std::memory_order_relaxed) != 0; }

std::optional<JobsFailure> run_jobs(Device& device, StopFlags& flags,
                                    const std::vector<std::function<void()>>& jobs,
                                    const std::function<void()>& tick,
                                    const std::function<Result<>()>& reconnect) {
  std::atomic<std::size_t> running = jobs.size();
  std::atomic<Start> start = Start::kWait;
  std::vector<std::jthread> threads;
  for (const auto& job : jobs) {
    auto thread = start_thread("job", [&job, &running, &start] {
      start.wait(Start::kWait);
      if (start == Start::kRun) job();
      running.fetch_sub(1);
    });
    if (!thread) {
      release(start, Start::kCancel);
      return JobsFailure{thread.error().to_string(), kExitUsage};
    }
    threads.push_back(std::move(*thread));
  }
  release(start, Start::kRun);
  std::optional<JobsFailure> failure;
  while (running.load() != 0) {
    if (failure) {
      std::this_thread::sleep_for(milliseconds(10));
    } else if (is_closed_within(device.frontend().socket().fd(), kTick)) {
      const Result<> reconnected = reconnect ? reconnect() : fail(ErrorKind::kClosed, "connection");
      if (!reconnected) {
        failure = JobsFailure{"backend disconnected"};
        if (reconnect) failure->text += "; reconnect failed: " + reconnected.error().to_string();
        flags.abandon = true;
      }
    }
    if (is_interrupted()) flags.stop = true;
    tick();
  }
  return failure;
}

ProgressLine::ProgressLine() : shown_(::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() {
  if (shown_) fmt::print(stderr, "\r{:{}}\r", "", width_);
}

void ProgressLine::show(const std::string& text) {
  if (!shown_) return;
  width_ = std::max(width_, text.size());
  fmt::print(stderr, "\r{:<{}}", text, width_);
  std::fflush(stderr);
}

}  // namespace guestio::load
