// SPDX-License-Identifier: MIT
#include "contention.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <coroutine>
#include <thread>
#include <vector>

#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "row.h"

namespace guestio::bench {

namespace {

using buf::BounceAccount;
using Clock = std::chrono::steady_clock;

cpu_set_t processors;

/// The coroutines of one thread in turns, and the calls of other threads for its account.
class Turns {
 public:
  Turns(BounceAccount& account, std::size_t tasks) : account_(account), ready_(tasks) {
    account_.open([this](BounceAccount&) {
      // Release: what was handed over is seen by the thread that finds the call.
      is_called_.store(true, std::memory_order_release);
      is_called_.notify_one();
    });
  }
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;
  ~Turns() { account_.close(); }

  /// `co_await turns.yield()` goes on when everybody else who can has had a turn.
  struct Yield {
    Turns& turns;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) const noexcept {
      turns.ready_[turns.behind_++ % turns.ready_.size()] = task;
    }
    void await_resume() const noexcept {}
  };
  [[nodiscard]] Yield yield() noexcept { return {*this}; }

  /// Runs the tasks of the scope to their end.
  void run(const task::Scope& scope) {
    while (scope.running() != 0) {
      if (is_called_.load(std::memory_order_relaxed)) take_call();
      if (front_ != behind_) {
        ready_[front_++ % ready_.size()].resume();
      } else if (scope.running() != 0) {
        is_called_.wait(false, std::memory_order_acquire);
      }
    }
  }

 private:
  void take_call() {
    // Before looking: a call that comes now is found the next time.
    (void)is_called_.exchange(false, std::memory_order_acquire);
    account_.serve();
  }

  BounceAccount& account_;
  std::vector<std::coroutine_handle<>> ready_;  // a ring: a task is in it once at the most
  std::size_t front_ = 0;
  std::size_t behind_ = 0;
  std::atomic<bool> is_called_{false};
};

task::Task<> take_turns(Turns& turns, BounceAccount& account, std::size_t size,
                        const std::atomic<bool>& is_over, std::uint64_t& taken) {
  while (!is_over.load(std::memory_order_relaxed)) {
    auto acquiring = account.acquire(size);
    const auto bounce = co_await acquiring;
    require(bounce);
    ++taken;
    co_await turns.yield();
  }
}

/// What one thread does. `taken` has an element for each task.
void run_thread(const Contention& contention, BounceAccount& account, std::barrier<>& start,
                const std::atomic<bool>& is_over, std::vector<std::uint64_t>& taken) {
  (void)::sched_setaffinity(0, sizeof(processors), &processors);
  Turns turns(account, contention.tasks);
  // All accounts are open before anybody needs what another one holds, and stay so to the end.
  start.arrive_and_wait();
  {
    task::Scope scope;
    for (std::uint64_t& count : taken) {
      scope.spawn(take_turns(turns, account, contention.size, is_over, count));
    }
    turns.run(scope);
  }
  start.arrive_and_wait();
}

}  // namespace

void note_processors() noexcept {
  if (::sched_getaffinity(0, sizeof(processors), &processors) != 0) CPU_SET(0, &processors);
}

ContentionOutcome contend(const Contention& contention) {
  auto tracker = buf::BounceBufferTracker::create(contention.limit, contention.threads);
  require(tracker);
  std::vector<std::vector<std::uint64_t>> taken(contention.threads,
                                                std::vector<std::uint64_t>(contention.tasks));
  std::atomic<bool> is_over = false;
  std::barrier<> start(static_cast<std::ptrdiff_t>(contention.threads + 1));
  std::vector<std::jthread> threads;
  threads.reserve(contention.threads);
  for (std::size_t i = 0; i < contention.threads; ++i) {
    threads.emplace_back(
        [&, i] { run_thread(contention, (*tracker)->account(i), start, is_over, taken[i]); });
  }
  start.arrive_and_wait();
  const auto began = Clock::now();
  // The first tenth is for warming up.
  std::this_thread::sleep_for(contention.duration / 10);
  const std::uint64_t allocated = allocations();
  std::this_thread::sleep_for(contention.duration * 9 / 10);
  const std::chrono::duration<double, std::nano> lasted = Clock::now() - began;
  const std::uint64_t allocated_behind = allocations();
  is_over = true;
  start.arrive_and_wait();
  threads.clear();

  std::uint64_t sum = 0;
  std::uint64_t least = taken[0][0];
  std::uint64_t largest = 0;
  for (const auto& of_thread : taken) {
    for (const std::uint64_t count : of_thread) {
      sum += count;
      least = std::min(least, count);
      largest = std::max(largest, count);
    }
  }
  const auto total = static_cast<double>(sum);
  const double fair = total / static_cast<double>(contention.threads * contention.tasks);
  const buf::BounceStatistics statistics = (*tracker)->statistics();
  const auto waits = static_cast<double>(statistics.waits);
  return {
      .nanoseconds = lasted.count() / total,
      .least_share = static_cast<double>(least) / fair,
      .largest_share = static_cast<double>(largest) / fair,
      .waits = waits / total,
      .mean_wait_nanoseconds = static_cast<double>(statistics.wait_time.count()) / waits,
      .longest_wait_nanoseconds = static_cast<double>(statistics.longest_wait.count()),
      .allocations = static_cast<double>(allocated_behind - allocated) / total,
  };
}

}  // namespace guestio::bench
