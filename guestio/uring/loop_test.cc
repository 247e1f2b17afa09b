// SPDX-License-Identifier: MIT
#include "guestio/uring/loop.h"

#include <gmock/gmock.h>
#include <sys/eventfd.h>

#include <list>
#include <memory>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/uring/operation_test.h"

namespace guestio::uring {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

std::unique_ptr<Loop> make_loop(RingMode mode, unsigned sq_entries = 256,
                                unsigned cq_entries = 4096) {
  auto loop =
      Loop::create({.ring = {.sq_entries = sq_entries, .cq_entries = cq_entries, .mode = mode}});
  return std::move(loop).value();
}

class LoopTest : public ::testing::TestWithParam<RingMode> {
 protected:
  std::unique_ptr<Loop> loop_ = make_loop(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Modes, LoopTest,
                         ::testing::Values(RingMode::kDeferred, RingMode::kCooperative,
                                           RingMode::kPlain),
                         [](const auto& info) { return to_text(info.param); });

TEST_P(LoopTest, CompletesAnOperationOnce) {
  TestOperation operation(do_nothing());
  loop_->start(operation);
  EXPECT_TRUE(operation.in_flight());
  EXPECT_EQ(loop_->in_flight(), 1U);
  EXPECT_EQ(operation.completions, 0U);
  loop_->run_until_idle();
  EXPECT_EQ(operation.completions, 1U);
  EXPECT_FALSE(operation.in_flight());
  EXPECT_EQ(loop_->in_flight(), 0U);
}

TEST_P(LoopTest, SubmitsABatchWithOneSystemCall) {
  std::list<TestOperation> operations;
  for (int i = 0; i < 32; ++i) loop_->start(operations.emplace_back(do_nothing()));
  const std::uint64_t before = loop_->statistics().enter_calls;
  loop_->run_until_idle();
  EXPECT_EQ(loop_->statistics().enter_calls - before, 1U);
  EXPECT_EQ(loop_->statistics().sq_full, 0U);
}

TEST_P(LoopTest, TenThousandOperationsPassThroughEightSqesInOrder) {
  constexpr std::size_t kOperations = 10'000;
  const auto loop = make_loop(GetParam(), 8, 16);
  std::vector<std::size_t> order;
  std::list<TestOperation> operations;
  for (std::size_t i = 0; i < kOperations; ++i) {
    loop->start(operations.emplace_back(
        do_nothing(), [&order, i](std::int32_t, std::uint32_t) { order.push_back(i); }));
  }
  EXPECT_EQ(loop->in_flight(), kOperations);
  loop->run_until_idle();
  ASSERT_EQ(order.size(), kOperations);
  EXPECT_TRUE(std::ranges::is_sorted(order));
  EXPECT_GE(loop->statistics().sq_full, kOperations - 8);
  EXPECT_EQ(loop->statistics().completions, kOperations);
}

TEST_P(LoopTest, CqOverflowLosesNoCompletions) {
  constexpr std::size_t kOperations = 10'000;
  const auto loop = make_loop(GetParam(), 8, 16);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  std::list<TestOperation> operations;
  for (std::size_t i = 0; i < kOperations; ++i) {
    loop->start(operations.emplace_back(poll_once(event.get())));
  }
  loop->post([&] { ::eventfd_write(event.get(), 1); });
  loop->run_until_idle();
  std::vector<std::uint64_t> completions;
  for (const TestOperation& operation : operations) completions.push_back(operation.completions);
  EXPECT_THAT(completions, Each(1));
}

TEST_P(LoopTest, AllPollsArmedBeforeOneEventComplete) {
  constexpr std::size_t kOperations = 10'000;
  const auto loop = make_loop(GetParam(), 8, 16);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  std::list<TestOperation> operations;
  for (std::size_t i = 0; i < kOperations; ++i) {
    loop->start(operations.emplace_back(poll_once(event.get())));
  }
  // Last in the queue: at its completion all polls are armed.
  TestOperation last(do_nothing(),
                     [&](std::int32_t, std::uint32_t) { ::eventfd_write(event.get(), 1); });
  loop->start(last);
  loop->run_until_idle();
  std::vector<std::uint64_t> completions;
  for (const TestOperation& operation : operations) completions.push_back(operation.completions);
  EXPECT_THAT(completions, Each(1));
}

TEST_P(LoopTest, ACompletionMayStartTheSameOperationAgain) {
  int left = 1000;
  TestOperation* again = nullptr;
  TestOperation operation(do_nothing(), [&](std::int32_t, std::uint32_t) {
    if (--left > 0) loop_->start(*again);
  });
  again = &operation;
  loop_->start(operation);
  loop_->run_until_idle();
  EXPECT_EQ(operation.completions, 1000U);
}

TEST_P(LoopTest, ACompletionMayDestroyItsOperation) {
  std::unique_ptr<TestOperation> operation;
  operation = std::make_unique<TestOperation>(
      do_nothing(), [&](std::int32_t, std::uint32_t) { loop_->post([&] { operation.reset(); }); });
  loop_->start(*operation);
  loop_->run_until_idle();
  EXPECT_EQ(operation, nullptr);
}

struct SelfDestroying final : Operation {
  explicit SelfDestroying(bool& is_gone) : gone(is_gone) {}
  ~SelfDestroying() { gone = true; }
  void prepare(io_uring_sqe& entry) noexcept override { ::io_uring_prep_nop(&entry); }
  void complete(std::int32_t, std::uint32_t) noexcept override { delete this; }
  bool& gone;
};

TEST_P(LoopTest, AnOperationMayDeleteItselfWhenComplete) {
  bool gone = false;
  loop_->start(*new SelfDestroying(gone));
  loop_->run_until_idle();
  EXPECT_TRUE(gone);
}

TEST_P(LoopTest, StopReturnsWithOperationsStillInFlight) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  TestOperation waits(poll_once(event.get()));
  loop_->start(waits);
  loop_->stop();
  loop_->run();
  EXPECT_TRUE(waits.in_flight());
  loop_->cancel(waits);
  loop_->run_until_idle();
  EXPECT_EQ(waits.last_result, -ECANCELED);
}

TEST_P(LoopTest, StopFromACompletionEndsRun) {
  TestOperation operation(do_nothing(), [&](std::int32_t, std::uint32_t) { loop_->stop(); });
  loop_->start(operation);
  loop_->run();
  EXPECT_EQ(operation.completions, 1U);
}

TEST_P(LoopTest, MayRunAgainAfterAStop) {
  loop_->stop();
  loop_->run();
  TestOperation operation(do_nothing(), [&](std::int32_t, std::uint32_t) { loop_->stop(); });
  loop_->start(operation);
  loop_->run();
  EXPECT_EQ(operation.completions, 1U);
}

struct CountingDeferred final : Deferred {
  explicit CountingDeferred(std::function<void()> function = {}) : then(std::move(function)) {}
  void run() noexcept override {
    ++runs;
    if (then) then();
  }
  std::function<void()> then;
  int runs = 0;
};

TEST_P(LoopTest, DeferredWorkRunsOncePerBatch) {
  CountingDeferred deferred;
  std::list<TestOperation> operations;
  for (int i = 0; i < 10; ++i) {
    loop_->start(operations.emplace_back(
        do_nothing(), [&](std::int32_t, std::uint32_t) { loop_->defer(deferred); }));
  }
  loop_->run_until_idle();
  EXPECT_EQ(deferred.runs, 1);
}

TEST_P(LoopTest, DeferredWorkRunsBeforeTheSubmissionOfNewOperations) {
  std::vector<int> order;
  TestOperation second(do_nothing(), [&](std::int32_t, std::uint32_t) { order.push_back(2); });
  CountingDeferred deferred([&] {
    order.push_back(1);
    loop_->start(second);
  });
  TestOperation first(do_nothing(), [&](std::int32_t, std::uint32_t) {
    order.push_back(0);
    loop_->defer(deferred);
  });
  loop_->start(first);
  const std::uint64_t before = loop_->statistics().enter_calls;
  loop_->run_until_idle();
  EXPECT_THAT(order, ElementsAre(0, 1, 2));
  EXPECT_EQ(loop_->statistics().enter_calls - before, 2U);
}

TEST_P(LoopTest, DeferredWorkMayDeferItselfToTheNextIteration) {
  int left = 3;
  CountingDeferred* again = nullptr;
  CountingDeferred deferred([&] {
    if (--left > 0) loop_->defer(*again);
  });
  again = &deferred;
  loop_->defer(deferred);
  loop_->defer(deferred);
  loop_->stop();
  loop_->run();
  EXPECT_EQ(deferred.runs, 1);
  loop_->run_until_idle();
  EXPECT_EQ(deferred.runs, 3);
}

TEST_P(LoopTest, DestroyedDeferredWorkDoesNotRun) {
  int runs = 0;
  CountingDeferred other([&] { ++runs; });
  auto deferred = std::make_unique<CountingDeferred>([&] { runs += 100; });
  loop_->defer(*deferred);
  loop_->defer(other);
  deferred.reset();
  loop_->run_until_idle();
  EXPECT_EQ(runs, 1) << "of the other object";
}

struct CountingPoller final : Poller {
  explicit CountingPoller(std::function<bool()> function) : look(std::move(function)) {}
  bool poll() noexcept override {
    ++polls;
    return look();
  }
  std::function<bool()> look;
  int polls = 0;
};

TEST_P(LoopTest, DoesNotSleepOrCallTheKernelWhileAPollerIsBusy) {
  int left = 1000;
  CountingPoller poller([&] {
    if (--left == 0) loop_->stop();
    return true;
  });
  loop_->add_poller(poller);
  TestOperation first(do_nothing());
  loop_->start(first);  // also submits the loop's own operations
  loop_->run_until_idle();
  const int polls_before = poller.polls;
  const std::uint64_t before = loop_->statistics().enter_calls;
  loop_->run();
  EXPECT_EQ(poller.polls, 1000);
  EXPECT_LT(polls_before, 10);
  // At most one, for the wake-up of stop().
  EXPECT_LE(loop_->statistics().enter_calls - before, 1U);
}

TEST_P(LoopTest, CompletesOperationsWhileAPollerIsBusy) {
  TestOperation operation(do_nothing());
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  TestOperation waits(poll_once(event.get()));
  CountingPoller poller([&] {
    ::eventfd_write(event.get(), 1);
    return true;
  });
  loop_->start(operation);
  loop_->start(waits);
  loop_->add_poller(poller);
  loop_->run_until_idle();
  EXPECT_EQ(operation.completions, 1U);
  EXPECT_EQ(waits.completions, 1U);
}

TEST_P(LoopTest, PollersMayRemoveThemselvesAndOneAnother) {
  CountingPoller second([] { return true; });
  CountingPoller* itself = nullptr;
  CountingPoller first([&] {
    loop_->remove_poller(second);
    loop_->remove_poller(*itself);
    loop_->stop();
    return true;
  });
  itself = &first;
  loop_->add_poller(first);
  loop_->add_poller(second);
  loop_->run();
  EXPECT_EQ(first.polls, 1);
  EXPECT_EQ(second.polls, 0);
}

TEST_P(LoopTest, ReportsTheSupportedOpcodes) {
  EXPECT_TRUE(loop_->supports(IORING_OP_READV));
  EXPECT_FALSE(loop_->supports(250));
}

using LoopDeathTest = LoopTest;
INSTANTIATE_TEST_SUITE_P(OneMode, LoopDeathTest, ::testing::Values(RingMode::kPlain));

TEST_P(LoopDeathTest, DestroyingALoopWithAnOperationInFlightIsABug) {
  EXPECT_DEATH(
      {
        TestOperation operation(do_nothing());
        const auto loop = make_loop(GetParam());
        loop->start(operation);
      },
      "no operation in flight when a loop is destroyed");
}

TEST_P(LoopDeathTest, StartingAnOperationTwiceIsABug) {
  EXPECT_DEATH(
      {
        TestOperation operation(do_nothing());
        loop_->start(operation);
        loop_->start(operation);
      },
      "operation started while not in flight");
}

TEST_P(LoopDeathTest, DestroyingAnOperationInFlightIsABug) {
  EXPECT_DEATH(
      {
        TestOperation operation(do_nothing());
        loop_->start(operation);
      },
      "operation complete before its destruction");
}

}  // namespace
}  // namespace guestio::uring
