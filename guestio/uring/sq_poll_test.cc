// SPDX-License-Identifier: MIT
// A loop with a submission queue polling thread: the differences to other modes. loop_test.cc tests
// the common behaviour.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <deque>

#include "guestio/base/unique_fd.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/notify.h"
#include "guestio/uring/operation_test.h"

namespace guestio::uring {
namespace {

constexpr LoopOptions kThreaded = {.ring = {.sq_entries = 4, .sq_poll_thread = SqPollThread{}}};

TEST(SqPollThread, FallsBackToARingWithoutSqPoll) {
  LoopOptions options = kThreaded;
  options.ring.sq_poll_thread->cpu = 1'000'000;
  const auto loop = Loop::create(options);
  ASSERT_TRUE(loop.has_value()) << loop.error().to_string();
  EXPECT_FALSE((*loop)->has_sq_poll_thread());
  TestOperation operation(do_nothing());
  (*loop)->start(operation);
  (*loop)->run_until_idle();
  EXPECT_EQ(operation.completions, 1U);
}

class SqPollTest : public ::testing::Test {
 protected:
  std::unique_ptr<Loop> loop_ = Loop::create(kThreaded).value();
};

TEST_F(SqPollTest, SubmitsMoreOperationsThanSqEntries) {
  ASSERT_TRUE(loop_->has_sq_poll_thread());
  std::deque<TestOperation> operations;
  for (int i = 0; i < 1000; ++i) loop_->start(operations.emplace_back(do_nothing()));
  loop_->run_until_idle();
  for (const TestOperation& operation : operations) ASSERT_EQ(operation.completions, 1U);
}

TEST_F(SqPollTest, WakesASleepingKernelThread) {
  for (int round = 0; round < 3; ++round) {
    TestOperation pause([](io_uring_sqe& entry) {
      static __kernel_timespec longer_than_it_looks{0, 30'000'000};
      ::io_uring_prep_timeout(&entry, &longer_than_it_looks, 0, 0);
    });
    loop_->start(pause);
    loop_->run_until_idle();
    EXPECT_EQ(pause.last_result, -ETIME);
  }
}

TEST_F(SqPollTest, ACancellationMatchesItsOperationOnly) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const UniqueFd reads(pipe[0]);
  const UniqueFd writes(pipe[1]);
  for (int round = 0; round < 100; ++round) {
    TestOperation waiting(poll_once(reads.get()));
    loop_->start(waiting);
    loop_->cancel(waiting);
    loop_->run_until_idle();
    ASSERT_EQ(waiting.last_result, -ECANCELED);
  }
}

TEST_F(SqPollTest, FlushSubmissionsWaitsForTheKernel) {
  for (int round = 0; round < 100; ++round) {
    ASSERT_TRUE(loop_->start_detached([](io_uring_sqe& entry) { ::io_uring_prep_nop(&entry); }));
    loop_->flush_submissions();
    ASSERT_EQ(loop_->unsubmitted(), 0U);
  }
}

}  // namespace
}  // namespace guestio::uring
