// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>

#include "guestio/task/timer.h"
#include "guestio/task/wait_queue.h"

namespace guestio::testing {

/// A timer with its own clock. Time passes in run_until() only, and sleeps end at their times.
class VirtualTimer final : public task::Timer {
 public:
  using Time = std::chrono::steady_clock::time_point;

  task::Task<> sleep(std::chrono::nanoseconds duration, task::StopToken token) override {
    task::Waiter waiter(sleepers_, token);
    const auto entry = due_.emplace(now_ + duration, &waiter);
    (void)co_await waiter;
    due_.erase(entry);
  }

  [[nodiscard]] Time now() const noexcept { return now_; }
  [[nodiscard]] std::size_t sleepers() const noexcept { return due_.size(); }
  void run_until(Time end) {
    while (!due_.empty() && due_.begin()->first <= end) {
      now_ = std::max(now_, due_.begin()->first);
      sleepers_.wake(*due_.begin()->second);
    }
    now_ = end;
  }
  void run_for(std::chrono::nanoseconds time) { run_until(now_ + time); }

 private:
  task::WaitQueue sleepers_;
  std::multimap<Time, task::Waiter*> due_;
  Time now_{std::chrono::hours(1)};
};

}  // namespace guestio::testing
