// SPDX-License-Identifier: MIT
#include "guestio/uring/deadline.h"

#include "guestio/uring/awaitables.h"

namespace guestio::uring {

task::Task<> Deadline::wait(Loop& loop, std::chrono::milliseconds duration) {
  const std::int32_t slept = co_await sleep(loop, duration, disarmed_.token());
  if (slept == 0) limit_.request_stop();
}

task::Task<> Deadline::disarm() {
  disarmed_.request_stop();
  co_await timer_.join();
}

}  // namespace guestio::uring
