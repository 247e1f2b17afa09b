// SPDX-License-Identifier: MIT
#include "guestio/task/task.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "guestio/task/scope.h"
#include "guestio/task/wait_queue.h"

namespace guestio::task {
namespace {

Task<int> answer() { co_return 42; }

Task<> set_to_answer(int& to) { to = co_await answer(); }

TEST(Task, ReturnsItsResultToTheAwaiter) {
  int result = 0;
  Scope scope;
  scope.spawn(set_to_answer(result));
  EXPECT_EQ(result, 42);
}

TEST(Task, DoesNotStartBeforeItIsAwaited) {
  int result = 0;
  const Task<> task = set_to_answer(result);
  EXPECT_EQ(result, 0);
  EXPECT_TRUE(static_cast<bool>(task));
}

Task<std::unique_ptr<int>> boxed(std::unique_ptr<int> value) { co_return std::move(value); }

Task<> unbox(int& to) {
  auto box = co_await boxed(std::make_unique<int>(7));
  to = *box;
}

TEST(Task, CarriesMoveOnlyValues) {
  int result = 0;
  Scope scope;
  scope.spawn(unbox(result));
  EXPECT_EQ(result, 7);
}

Task<int> wait_then_add(WaitQueue& queue, int left, int right) {
  co_await queue.wait();
  co_return left + right;
}

Task<> nested(WaitQueue& queue, int& to) {
  const int once = co_await wait_then_add(queue, 1, 2);
  const int twice = co_await wait_then_add(queue, once, 4);
  to = twice;
}

TEST(Task, ResumesAtItsSuspensionPoint) {
  int result = 0;
  WaitQueue queue;
  Scope scope;
  scope.spawn(nested(queue, result));
  EXPECT_TRUE(queue.wake_one());
  EXPECT_EQ(result, 0);
  EXPECT_TRUE(queue.wake_one());
  EXPECT_EQ(result, 7);
}

Task<> await_named(int& to) {
  Task<int> task = answer();
  Task<int> moved = std::move(task);
  to = co_await std::move(moved);
}

TEST(Task, MayBeMovedBeforeItIsAwaited) {
  int result = 0;
  Scope scope;
  scope.spawn(await_named(result));
  EXPECT_EQ(result, 42);
}

struct CountsLife {
  explicit CountsLife(int& alive) : alive_(alive) { ++alive_; }
  CountsLife(const CountsLife& other) : alive_(other.alive_) { ++alive_; }
  CountsLife& operator=(const CountsLife&) = delete;
  ~CountsLife() { --alive_; }
  int& alive_;
};

Task<> hold(CountsLife by_value, WaitQueue& queue) {
  const CountsLife local(by_value.alive_);
  co_await queue.wait();
}

Task<> hold_nested(CountsLife by_value, WaitQueue& queue) { co_await hold(by_value, queue); }

TEST(Task, DestroyedBeforeItStartsFreesItsParameters) {
  int alive = 0;
  WaitQueue queue;
  {
    const Task<> task = hold(CountsLife(alive), queue);
  }
  EXPECT_EQ(alive, 0);
}

TEST(Task, ItsEndFreesParametersAndLocalsExactlyOnce) {
  int alive = 0;
  WaitQueue queue;
  Scope scope;
  scope.spawn(hold_nested(CountsLife(alive), queue));
  EXPECT_GT(alive, 0);
  queue.wake_one();
  EXPECT_EQ(alive, 0);
}

// Drives a task manually, so that a test can destroy it while suspended.
class ByHand {
 public:
  struct Promise {
    ByHand get_return_object() {
      return ByHand(std::coroutine_handle<Promise>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  using promise_type = Promise;
  void destroy() const { handle_.destroy(); }

 private:
  explicit ByHand(std::coroutine_handle<Promise> handle) : handle_(handle) {}
  std::coroutine_handle<Promise> handle_;
};
ByHand drive(Task<> task) { co_await std::move(task); }

TEST(Task, DestroyedWhileWaitingItLeavesTheQueue) {
  int alive = 0;
  WaitQueue queue;
  const ByHand driver = drive(hold_nested(CountsLife(alive), queue));
  EXPECT_FALSE(queue.is_empty());
  driver.destroy();
  EXPECT_EQ(alive, 0);
  EXPECT_TRUE(queue.is_empty());
}

Task<int> one() { co_return 1; }

Task<> add_up(int times, long& sum) {
  for (int i = 0; i < times; ++i) {
    const int value = co_await one();
    sum += value;
  }
}

TEST(Task, ALoopOverTasksWithoutSuspensionDoesNotGrowTheStack) {
  long sum = 0;
  Scope scope;
  scope.spawn(add_up(1'000'000, sum));
  EXPECT_EQ(sum, 1'000'000);
}

Task<> wait_each_time(WaitQueue& queue, int times, int& done) {
  for (int i = 0; i < times; ++i) {
    co_await queue.wait();
    co_await answer();
    ++done;
  }
}

TEST(Task, ALoopResumedFromOutsideDoesNotGrowTheStack) {
  constexpr int kTimes = 200'000;
  int done = 0;
  WaitQueue queue;
  Scope scope;
  scope.spawn(wait_each_time(queue, kTimes, done));
  while (queue.wake_one()) {
  }
  EXPECT_EQ(done, kTimes);
}

// Completes the awaited task within its own start: the waker runs below the awaiter.
Task<> wait_here(WaitQueue& queue) { co_await queue.wait(); }
Task<> start_and_wake(WaitQueue& queue, bool& done) {
  Scope inner;
  inner.spawn(wait_here(queue));
  queue.wake_one();
  co_await inner.join();
  done = true;
}

TEST(Task, MayBeFinishedWhileItsStarterIsStillOnTheStack) {
  bool done = false;
  WaitQueue queue;
  Scope scope;
  scope.spawn(start_and_wake(queue, done));
  EXPECT_TRUE(done);
}

Task<> await_empty() {
  Task<int> task;
  co_await std::move(task);
}

TEST(TaskDeathTest, AwaitingAnEmptyTaskIsABug) {
  EXPECT_DEATH(
      {
        Scope scope;
        scope.spawn(await_empty());
      },
      "a task that holds a coroutine");
}

Task<> await_twice() {
  Task<int> task = answer();
  co_await std::move(task);
  co_await std::move(task);  // NOLINT(bugprone-use-after-move): the tested bug
}

TEST(TaskDeathTest, AwaitingTwiceIsABug) {
  EXPECT_DEATH(
      {
        Scope scope;
        scope.spawn(await_twice());
      },
      "a task to be awaited once");
}

}  // namespace
}  // namespace guestio::task
