// SPDX-License-Identifier: MIT
#include "apps/guestio-load/jobs.h"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

namespace guestio::load {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTick(200);

// Written by the signal handler, read by the control thread: 0 or 1.
std::atomic<int> signal_came = 0;
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int) { signal_came.store(1, std::memory_order_relaxed); }

/// Whether the backend closes the connection within `limit`. It has nothing to say meanwhile.
bool closes_within(int fd, milliseconds limit) {
  pollfd poller{.fd = fd, .events = POLLRDHUP, .revents = 0};
  return ::poll(&poller, 1, static_cast<int>(limit.count())) > 0;
}

}  // namespace

void end_on_signals() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool is_asked_to_end() noexcept { return signal_came.load(std::memory_order_relaxed) != 0; }

std::optional<std::string> run_jobs(Device& device, StopFlags& flags,
                                    const std::vector<std::function<void()>>& jobs,
                                    const std::function<void()>& tick,
                                    const std::function<Result<>()>& reconnect) {
  std::atomic<std::size_t> running = jobs.size();
  std::vector<std::jthread> threads;
  threads.reserve(jobs.size());
  for (const auto& job : jobs) {
    threads.emplace_back([&job, &running] {
      job();
      running.fetch_sub(1);
    });
  }
  std::optional<std::string> failure;
  while (running.load() != 0) {
    if (failure) {
      std::this_thread::sleep_for(milliseconds(10));
    } else if (closes_within(device.frontend().socket().fd(), kTick)) {
      const Result<> back = reconnect ? reconnect() : fail(ErrorKind::kClosed, "connection");
      if (!back) {
        failure = "the backend closed the connection";
        if (reconnect) *failure += ", and " + back.error().to_string();
        flags.abandon = true;
      }
    }
    if (is_asked_to_end()) flags.stop = true;
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
