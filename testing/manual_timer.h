// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <vector>

#include "guestio/task/timer.h"
#include "guestio/task/wait_queue.h"

namespace guestio::testing {

/// A timer fired by the test.
class ManualTimer final : public task::Timer {
 public:
  task::Task<> sleep(std::chrono::nanoseconds duration, task::StopToken token) override {
    durations.push_back(duration);
    (void)co_await sleepers_.wait(token);
  }

  /// Ends all pending sleeps. Returns false without one.
  bool fire() noexcept {
    const bool has_sleepers = !sleepers_.is_empty();
    sleepers_.wake_all();
    return has_sleepers;
  }

  std::vector<std::chrono::nanoseconds> durations;  ///< of all sleep() calls

 private:
  task::WaitQueue sleepers_;
};

}  // namespace guestio::testing
