// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <vector>

#include "guestio/task/timer.h"
#include "guestio/task/wait_queue.h"

namespace guestio::testing {

/// Time that passes when a test says so.
class ManualTimer final : public task::Timer {
 public:
  task::Task<> sleep(std::chrono::nanoseconds duration, task::StopToken token) override {
    durations.push_back(duration);
    (void)co_await sleepers_.wait(token);
  }

  /// Ends the pauses that are being waited for; false when there are none.
  bool fire() noexcept {
    const bool is_awaited = !sleepers_.is_empty();
    sleepers_.wake_all();
    return is_awaited;
  }

  std::vector<std::chrono::nanoseconds> durations;

 private:
  task::WaitQueue sleepers_;
};

}  // namespace guestio::testing
