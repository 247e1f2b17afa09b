// SPDX-License-Identifier: MIT
#include "guestio/task/wait_queue.h"

#include <gmock/gmock.h>

#include <memory>
#include <optional>
#include <vector>

#include "guestio/task/scope.h"

namespace guestio::task {
namespace {

using ::testing::ElementsAre;

Task<> wait_and_note(WaitQueue& queue, int name, std::vector<int>& log, StopToken token = {}) {
  const WaitOutcome outcome = co_await queue.wait(token);
  log.push_back(outcome == WaitOutcome::kWoken ? name : -name);
}

TEST(WaitQueue, WakesTheLongestWaiterFirst) {
  std::vector<int> log;
  WaitQueue queue;
  Scope scope;
  for (const int name : {1, 2, 3}) scope.spawn(wait_and_note(queue, name, log));
  EXPECT_TRUE(queue.wake_one());
  EXPECT_THAT(log, ElementsAre(1));
  EXPECT_TRUE(queue.wake_one());
  EXPECT_TRUE(queue.wake_one());
  EXPECT_THAT(log, ElementsAre(1, 2, 3));
  EXPECT_FALSE(queue.wake_one());
}

TEST(WaitQueue, WakesAllInOrder) {
  std::vector<int> log;
  WaitQueue queue;
  Scope scope;
  for (const int name : {1, 2, 3}) scope.spawn(wait_and_note(queue, name, log));
  queue.wake_all();
  EXPECT_THAT(log, ElementsAre(1, 2, 3));
}

Task<> wait_twice(WaitQueue& queue, int& woken) {
  co_await queue.wait();
  ++woken;
  co_await queue.wait();
  ++woken;
}

TEST(WaitQueue, WakingAllDoesNotWakeOneThatWaitsAgain) {
  int woken = 0;
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_twice(queue, woken));
  queue.wake_all();
  EXPECT_EQ(woken, 1);
  queue.wake_all();
  EXPECT_EQ(woken, 2);
}

TEST(WaitQueue, AStoppedWaiterLeavesTheQueueAndGetsStopped) {
  std::vector<int> log;
  StopSource stop;
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_and_note(queue, 1, log));
  scope.spawn(wait_and_note(queue, 2, log, stop.token()));
  scope.spawn(wait_and_note(queue, 3, log));
  stop.request_stop();
  EXPECT_THAT(log, ElementsAre(-2));
  queue.wake_all();
  EXPECT_THAT(log, ElementsAre(-2, 1, 3));
}

TEST(WaitQueue, AStoppedTokenDoesNotWait) {
  std::vector<int> log;
  StopSource stop;
  stop.request_stop();
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_and_note(queue, 1, log, stop.token()));
  EXPECT_THAT(log, ElementsAre(-1));
}

TEST(WaitQueue, AStopAfterTheWakeUpChangesNothing) {
  std::vector<int> log;
  StopSource stop;
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_and_note(queue, 1, log, stop.token()));
  queue.wake_one();
  stop.request_stop();
  EXPECT_THAT(log, ElementsAre(1));
}

TEST(WaitQueue, WakesAChosenWaiterOutOfOrder) {
  std::vector<int> log;
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_and_note(queue, 1, log));
  Waiter* const first = queue.front();
  scope.spawn(wait_and_note(queue, 2, log));
  queue.wake_one();
  EXPECT_THAT(log, ElementsAre(1));
  EXPECT_NE(queue.front(), first);
  queue.wake(*queue.front());
  EXPECT_THAT(log, ElementsAre(1, 2));
}

Task<> wake_next(WaitQueue& queue, int& depth, int& deepest, int& woken) {
  co_await queue.wait();
  ++woken;
  ++depth;
  deepest = depth > deepest ? depth : deepest;
  queue.wake_one();
  --depth;
}

TEST(WaitQueue, AChainOfWakeUpsDoesNotNest) {
  constexpr int kWaiters = 50'000;
  int depth = 0;
  int deepest = 0;
  int woken = 0;
  WaitQueue queue;
  Scope scope;
  for (int i = 0; i < kWaiters; ++i) scope.spawn(wake_next(queue, depth, deepest, woken));
  queue.wake_one();
  EXPECT_EQ(woken, kWaiters);
  EXPECT_EQ(deepest, 1);
}

Task<> wait_then_destroy(std::unique_ptr<WaitQueue>& queue) {
  co_await queue->wait();
  queue.reset();
}

TEST(WaitQueue, MayBeDestroyedByAWokenWaiter) {
  auto queue = std::make_unique<WaitQueue>();
  Scope scope;
  scope.spawn(wait_then_destroy(queue));
  queue->wake_all();
  EXPECT_EQ(queue, nullptr);
}

struct Sized final : Waiter {
  Sized(WaitQueue& queue, int pages_wanted) : Waiter(queue), pages(pages_wanted) {}
  int pages;
};

Task<> want(WaitQueue& queue, int pages, std::vector<int>& log) {
  Sized waiter(queue, pages);
  co_await waiter;
  log.push_back(pages);
}

void grant(WaitQueue& queue, int& budget) {
  while (!queue.is_empty() && static_cast<Sized*>(queue.front())->pages <= budget) {
    budget -= static_cast<Sized*>(queue.front())->pages;
    queue.wake_one();
  }
}

TEST(WaitQueue, ADerivedWaiterCarriesDataForTheWaker) {
  std::vector<int> log;
  int budget = 3;
  WaitQueue queue;
  Scope scope;
  for (const int pages : {2, 4, 1}) scope.spawn(want(queue, pages, log));
  grant(queue, budget);
  EXPECT_THAT(log, ElementsAre(2));
  budget = 5;
  grant(queue, budget);
  EXPECT_THAT(log, ElementsAre(2, 4, 1));
}

Task<> wait_then_clear(WaitQueue& queue, std::optional<Sized>& other) {
  co_await queue.wait();
  other.reset();
}

TEST(WaitQueue, AWokenWaiterMayBeDestroyedBeforeItIsResumed) {
  WaitQueue queue;
  Scope scope;
  std::optional<Sized> other;
  scope.spawn(wait_then_clear(queue, other));
  other.emplace(queue, 1);
  other->await_suspend(std::noop_coroutine());
  queue.wake_all();
  EXPECT_FALSE(other.has_value());
  EXPECT_FALSE(queue.wake_one());
}

TEST(WaitQueue, RandomStopsAndWakeUpsLoseNoWaiter) {
  constexpr int kRounds = 1'000;
  std::vector<int> log;
  for (int round = 0; round < kRounds; ++round) {
    StopSource stop;
    WaitQueue queue;
    Scope scope;
    for (int name = 1; name <= 8; ++name) {
      scope.spawn(wait_and_note(queue, name, log, name % 3 == 0 ? stop.token() : StopToken()));
    }
    queue.wake_one();
    stop.request_stop();
    queue.wake_all();
    EXPECT_EQ(scope.running(), 0U);
  }
  EXPECT_EQ(log.size(), 8U * kRounds);
}

TEST(WaitQueueDeathTest, DestroyingItWithAWaiterIsABug) {
  EXPECT_DEATH(
      {
        std::vector<int> log;
        Scope scope;
        WaitQueue queue;
        scope.spawn(wait_and_note(queue, 1, log));
      },
      "no waiters at the end of a wait queue");
}

}  // namespace
}  // namespace guestio::task
