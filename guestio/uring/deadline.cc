// SPDX-License-Identifier: MIT
#include "time_limit.h"

#include "guestio/uring/awaitables.h"

namespace guestio::app {

task::Task<> TimeLimit::wait(uring::Loop& loop, std::chrono::milliseconds duration) {
  const std::int32_t slept = co_await uring::sleep(loop, duration, done_.token());
  if (slept == 0) limit_.request_stop();
}

task::Task<> TimeLimit::end() {
  done_.request_stop();
  auto ended = waiting_.join();
  co_await ended;
}

}  // namespace guestio::app
