// SPDX-License-Identifier: MIT
// Cancellation, of operations and of awaiting coroutines.
#include <gmock/gmock.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <list>
#include <memory>
#include <random>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/operation_test.h"
#include "guestio/uring/run_task.h"

namespace guestio::uring {
namespace {

using task::Task;
using ::testing::Each;

std::unique_ptr<Loop> loop_of(RingMode mode, unsigned sq_entries = 256) {
  auto loop = Loop::create({.ring = {.sq_entries = sq_entries, .mode = mode}});
  return std::move(loop).value();
}

class CancelTest : public ::testing::TestWithParam<RingMode> {
 protected:
  void SetUp() override {
    ASSERT_EQ(::pipe2(pipe_.data(), O_CLOEXEC), 0);
    pipe_reader_.reset(pipe_[0]);
    pipe_writer_.reset(pipe_[1]);
  }

  std::unique_ptr<Loop> loop_ = loop_of(GetParam());
  UniqueFd event_{::eventfd(0, EFD_CLOEXEC)};
  std::array<int, 2> pipe_{};
  UniqueFd pipe_reader_;
  UniqueFd pipe_writer_;
};

INSTANTIATE_TEST_SUITE_P(Modes, CancelTest,
                         ::testing::Values(RingMode::kDeferred, RingMode::kCooperative,
                                           RingMode::kPlain),
                         [](const auto& info) { return to_text(info.param); });

TEST_P(CancelTest, CompletesLaterAndOnlyOnce) {
  TestOperation operation(poll_once(event_.get()));
  loop_->start(operation);
  loop_->cancel(operation);
  loop_->cancel(operation);
  EXPECT_EQ(operation.completions, 0U);
  loop_->run_until_idle();
  EXPECT_EQ(operation.completions, 1U);
  EXPECT_EQ(operation.last_result, -ECANCELED);
}

TEST_P(CancelTest, OfAnIdleOperationHasNoEffect) {
  TestOperation operation(do_nothing());
  loop_->cancel(operation);
  loop_->start(operation);
  loop_->run_until_idle();
  EXPECT_EQ(operation.last_result, 0);
}

TEST_P(CancelTest, OfAQueuedOperationNeverReachesTheKernel) {
  const auto loop = loop_of(GetParam(), 1);
  TestOperation first(do_nothing());
  int prepared = 0;
  TestOperation second([&](io_uring_sqe& entry) {
    ++prepared;
    ::io_uring_prep_nop(&entry);
  });
  loop->start(first);
  loop->start(second);
  loop->cancel(second);
  EXPECT_EQ(second.completions, 0U);
  loop->run_until_idle();
  EXPECT_EQ(second.last_result, -ECANCELED);
  EXPECT_EQ(prepared, 0);
  EXPECT_EQ(first.last_result, 0);
}

TEST_P(CancelTest, WithoutAFreeSqeIsSubmittedLater) {
  const auto loop = loop_of(GetParam(), 1);
  TestOperation operation(poll_once(event_.get()));
  TestOperation behind_it(do_nothing(), [&](std::int32_t, std::uint32_t) { loop->stop(); });
  loop->start(operation);
  loop->start(behind_it);
  loop->run();
  TestOperation fills_the_ring(do_nothing());
  loop->start(fills_the_ring);
  loop->cancel(operation);
  loop->run_until_idle();
  EXPECT_EQ(operation.last_result, -ECANCELED);
}

TEST_P(CancelTest, DoesNotReachALaterOperationAtTheSameAddress) {
  TestOperation* again = nullptr;
  int round = 0;
  std::vector<std::int32_t> results;
  TestOperation operation(do_nothing(), [&](std::int32_t result, std::uint32_t) {
    results.push_back(result);
    if (++round < 100) {
      loop_->start(*again);
      // The cancellation is submitted when the operation completes by itself, before the next
      // start.
      if (round % 2 == 0) loop_->cancel(*again);
    }
  });
  again = &operation;
  loop_->start(operation);
  loop_->run_until_idle();
  EXPECT_EQ(results.size(), 100U);
  EXPECT_THAT(results, Each(0));  // a nop completes before its cancellation
}

TEST_P(CancelTest, TenThousandOperationsAreAllCancelled) {
  const auto loop = loop_of(GetParam(), 8);
  std::list<TestOperation> operations;
  for (int i = 0; i < 10'000; ++i) {
    loop->start(operations.emplace_back(poll_once(event_.get())));
  }
  TestOperation last(do_nothing(), [&](std::int32_t, std::uint32_t) {
    for (TestOperation& operation : operations) loop->cancel(operation);
  });
  loop->start(last);
  loop->run_until_idle();
  std::vector<std::int32_t> results;
  for (const TestOperation& operation : operations) results.push_back(operation.last_result);
  EXPECT_THAT(results, Each(-ECANCELED));
}

TEST_P(CancelTest, AStormOfStartsCancelsAndEventsEndsEachOperationOnce) {
  constexpr std::uint64_t kRounds = 20'000;
  const auto loop = loop_of(GetParam(), 8);
  std::minstd_rand random(1);
  std::list<TestOperation> operations;
  for (int i = 0; i < 64; ++i) operations.emplace_back(poll_once(event_.get()));
  std::vector<TestOperation*> all;
  for (TestOperation& operation : operations) all.push_back(&operation);
  std::uint64_t started = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    TestOperation& chosen = *all[random() % all.size()];
    if (!chosen.in_flight()) {
      ++started;
      loop->start(chosen);
    } else {
      loop->cancel(chosen);
    }
    if (random() % 50 == 0) ::eventfd_write(event_.get(), 1);
    std::uint64_t count = 0;
    if (random() % 50 == 0) {
      ::eventfd_write(event_.get(), 1);
      ::eventfd_read(event_.get(), &count);
    }
    loop->stop();  // one iteration without sleep
    if (random() % 4 == 0) loop->run();
  }
  for (TestOperation* operation : all) loop->cancel(*operation);
  loop->run_until_idle();
  std::uint64_t completed = 0;
  for (const TestOperation& operation : operations) completed += operation.completions;
  EXPECT_EQ(completed, started);
}

Task<> read_pipe(Loop& loop, File pipe, task::StopToken token, std::int32_t& result) {
  std::array<std::byte, 64> buffer{};
  result = co_await read(loop, pipe, buffer, kCurrentPosition, token);
}

TEST_P(CancelTest, AStoppedTokenEndsABlockedRead) {
  std::int32_t result = 0;
  task::StopSource stop;
  task::Scope scope;
  scope.spawn(read_pipe(*loop_, File(pipe_reader_.get()), stop.token(), result));
  loop_->post([&] { stop.request_stop(); });
  loop_->run_until_idle();
  EXPECT_EQ(result, -ECANCELED);
}

TEST_P(CancelTest, ATokenStoppedBeforehandMakesNoCall) {
  std::int32_t result = 0;
  task::StopSource stop;
  stop.request_stop();
  task::Scope scope;
  const std::uint64_t before = loop_->statistics().operations;
  scope.spawn(read_pipe(*loop_, File(pipe_reader_.get()), stop.token(), result));
  EXPECT_EQ(result, -ECANCELED);
  EXPECT_EQ(loop_->statistics().operations, before);
}

TEST_P(CancelTest, AResultBeforeTheStopIsKept) {
  std::int32_t result = 0;
  task::StopSource stop;
  task::Scope scope;
  ASSERT_EQ(::write(pipe_writer_.get(), "abc", 3), 3);
  scope.spawn(read_pipe(*loop_, File(pipe_reader_.get()), stop.token(), result));
  stop.request_stop();
  loop_->run_until_idle();
  EXPECT_EQ(result, 3);
}

Task<> sleep_long(Loop& loop, task::StopToken token, std::int32_t& result) {
  result = co_await sleep(loop, std::chrono::hours(1), token);
}

TEST_P(CancelTest, AStoppedTokenEndsASleep) {
  std::int32_t result = 0;
  task::StopSource stop;
  task::Scope scope;
  scope.spawn(sleep_long(*loop_, stop.token(), result));
  loop_->post([&] { stop.request_stop(); });
  loop_->run_until_idle();
  EXPECT_EQ(result, -ECANCELED);
}

Task<> drain(Loop& loop, task::Scope& scope, task::StopSource& stop) {
  co_await sleep(loop, std::chrono::milliseconds(1));
  stop.request_stop();
  co_await scope.join();
}

TEST_P(CancelTest, StopThenJoinDrainsOperationsInFlight) {
  std::vector<std::int32_t> results(1000);
  task::StopSource stop;
  task::Scope scope;
  for (std::int32_t& result : results) {
    scope.spawn(read_pipe(*loop_, File(pipe_reader_.get()), stop.token(), result));
  }
  run_task(*loop_, drain(*loop_, scope, stop));
  EXPECT_EQ(loop_->in_flight(), 0U);
  EXPECT_THAT(results, Each(-ECANCELED));
}

}  // namespace
}  // namespace guestio::uring
