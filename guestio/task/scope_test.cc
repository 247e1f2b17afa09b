// SPDX-License-Identifier: MIT
#include "guestio/task/scope.h"

#include <gtest/gtest.h>

#include <memory>

#include "guestio/task/wait_queue.h"

namespace guestio::task {
namespace {

Task<> wait_once(WaitQueue& queue) { co_await queue.wait(); }

Task<> join_then_set(Scope& scope, bool& joined) {
  co_await scope.join();
  joined = true;
}

TEST(Scope, StartsATaskAtOnce) {
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_once(queue));
  EXPECT_EQ(scope.running(), 1U);
  EXPECT_FALSE(queue.is_empty());
  queue.wake_one();
  EXPECT_EQ(scope.running(), 0U);
}

TEST(Scope, JoinCompletesAtTheEndOfTheLastTask) {
  bool joined = false;
  WaitQueue queue;
  Scope scope;
  Scope outer;
  scope.spawn(wait_once(queue));
  scope.spawn(wait_once(queue));
  outer.spawn(join_then_set(scope, joined));
  queue.wake_one();
  EXPECT_FALSE(joined);
  queue.wake_one();
  EXPECT_TRUE(joined);
}

TEST(Scope, JoiningAnEmptyScopeDoesNotWait) {
  bool joined = false;
  Scope scope;
  Scope outer;
  outer.spawn(join_then_set(scope, joined));
  EXPECT_TRUE(joined);
}

Task<> spawn_another(Scope& scope, WaitQueue& queue) {
  co_await queue.wait();
  scope.spawn(wait_once(queue));
}

TEST(Scope, JoinWaitsForTasksSpawnedInTheMeantime) {
  bool joined = false;
  WaitQueue queue;
  Scope scope;
  Scope outer;
  scope.spawn(spawn_another(scope, queue));
  outer.spawn(join_then_set(scope, joined));
  queue.wake_one();
  EXPECT_FALSE(joined);
  queue.wake_one();
  EXPECT_TRUE(joined);
}

Task<> join_then_destroy(std::unique_ptr<Scope>& scope) {
  co_await scope->join();
  scope.reset();
}

TEST(Scope, MayBeDestroyedByItsJoiner) {
  WaitQueue queue;
  auto scope = std::make_unique<Scope>();
  Scope outer;
  scope->spawn(wait_once(queue));
  outer.spawn(join_then_destroy(scope));
  queue.wake_one();
  EXPECT_EQ(scope, nullptr);
}

TEST(Scope, MayBeUsedAgainAfterAJoin) {
  bool joined = false;
  WaitQueue queue;
  Scope scope;
  Scope outer;
  outer.spawn(join_then_set(scope, joined));
  scope.spawn(wait_once(queue));
  joined = false;
  outer.spawn(join_then_set(scope, joined));
  queue.wake_one();
  EXPECT_TRUE(joined);
}

TEST(ScopeDeathTest, DestroyingItWithARunningTaskIsABug) {
  EXPECT_DEATH(
      {
        WaitQueue queue;
        Scope scope;
        scope.spawn(wait_once(queue));
      },
      "no running tasks at the end of a scope");
}

}  // namespace
}  // namespace guestio::task
