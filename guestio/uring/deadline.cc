// SPDX-License-Identifier: MIT
#include "deadline.h"

#include "guestio/uring/awaitables.h"

namespace guestio::uring {

task::Task<> Deadline::wait(uring::Loop& loop, std::chrono::milliseconds duration) {
  const std::int32_t slept = co_await uring::sleep(loop, duration, done_.token());
  if (slept == 0) limit_.request_stop();
}

task::Task<> Deadline::disarm() {
  done_.request_stop();
  auto ended = waiting_.join();
  co_await ended;
}

}  // namespace guestio::uring
