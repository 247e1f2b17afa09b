// SPDX-License-Identifier: MIT
#include "guestio/uring/blocking_call.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <semaphore>
#include <thread>

#include "guestio/uring/run_task.h"

namespace guestio::uring {
namespace {

TEST(BlockingCall, RunsOnAnotherThreadWhileTheLoopRuns) {
  auto loop = std::move(*Loop::create({}));
  std::binary_semaphore may_end{0};
  bool loop_went_on = false;
  std::thread::id there;
  run_task(*loop, [&]() -> task::Task<> {
    // Only the loop ends the call.
    loop->post([&] {
      loop_went_on = true;
      may_end.release();
    });
    BlockingCall call(*loop, [&] {
      may_end.acquire();
      there = std::this_thread::get_id();
      return -ENODEV;
    });
    const std::int32_t result = co_await call;
    EXPECT_EQ(result, -ENODEV);
    EXPECT_NE(there, std::this_thread::get_id());
  }());
  EXPECT_TRUE(loop_went_on);
}

}  // namespace
}  // namespace guestio::uring
