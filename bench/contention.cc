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

cpu_set_t saved_affinity;

/// The round-robin scheduler of one thread, which also serves other threads' calls to its account.
class RoundRobin {
 public:
  RoundRobin(BounceAccount& account, std::size_t tasks) : account_(account), ready_(tasks) {
    account_.open([this](BounceAccount&) {
      // Release: pairs with the acquire in serve_call().
      is_called_.store(true, std::memory_order_release);
      is_called_.notify_one();
    });
  }
  RoundRobin(const RoundRobin&) = delete;
  RoundRobin& operator=(const RoundRobin&) = delete;
  ~RoundRobin() { account_.close(); }

  /// `co_await scheduler.yield()` resumes after all other ready tasks.
  struct Yield {
    RoundRobin& scheduler;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) const noexcept {
      scheduler.ready_[scheduler.end_++ % scheduler.ready_.size()] = task;
    }
    void await_resume() const noexcept {}
  };
  [[nodiscard]] Yield yield() noexcept { return {*this}; }

  /// Runs until all tasks of the scope have ended.
  void run(const task::Scope& scope) {
    while (scope.running() != 0) {
      if (is_called_.load(std::memory_order_relaxed)) serve_call();
      if (begin_ != end_) {
        ready_[begin_++ % ready_.size()].resume();
      } else if (scope.running() != 0) {
        is_called_.wait(false, std::memory_order_acquire);
      }
    }
  }

 private:
  void serve_call() {
    // Reset first: a later call is served the next time.
    (void)is_called_.exchange(false, std::memory_order_acquire);
    account_.serve();
  }

  BounceAccount& account_;
  std::vector<std::coroutine_handle<>> ready_;  // a ring buffer; each task is in it at most once
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::atomic<bool> is_called_{false};
};

task::Task<> acquire_repeatedly(RoundRobin& scheduler, BounceAccount& account, std::size_t size,
                                const std::atomic<bool>& is_over, std::uint64_t& acquired) {
  while (!is_over.load(std::memory_order_relaxed)) {
    const auto bounce = co_await account.acquire(size);
    require(bounce);
    ++acquired;
    co_await scheduler.yield();
  }
}

/// The thread function. `acquired` has an element per task.
void run_thread(const Contention& contention, BounceAccount& account, std::barrier<>& start,
                const std::atomic<bool>& is_over, std::vector<std::uint64_t>& acquired) {
  (void)::sched_setaffinity(0, sizeof(saved_affinity), &saved_affinity);
  RoundRobin scheduler(account, contention.tasks);
  // All accounts are open before the first task starts and until the last one ends.
  start.arrive_and_wait();
  {
    task::Scope scope;
    for (std::uint64_t& count : acquired) {
      scope.spawn(acquire_repeatedly(scheduler, account, contention.size, is_over, count));
    }
    scheduler.run(scope);
  }
  start.arrive_and_wait();
}

}  // namespace

void save_affinity() noexcept {
  if (::sched_getaffinity(0, sizeof(saved_affinity), &saved_affinity) != 0)
    CPU_SET(0, &saved_affinity);
}

ContentionOutcome run_contention(const Contention& contention) {
  auto tracker = buf::BounceBufferTracker::create(contention.limit, contention.threads);
  require(tracker);
  std::vector<std::vector<std::uint64_t>> acquired(contention.threads,
                                                   std::vector<std::uint64_t>(contention.tasks));
  std::atomic<bool> is_over = false;
  std::barrier<> start(static_cast<std::ptrdiff_t>(contention.threads + 1));
  std::vector<std::jthread> threads;
  threads.reserve(contention.threads);
  for (std::size_t i = 0; i < contention.threads; ++i) {
    threads.emplace_back(
        [&, i] { run_thread(contention, (*tracker)->account(i), start, is_over, acquired[i]); });
  }
  start.arrive_and_wait();
  const auto begin = Clock::now();
  // The first tenth is warm-up.
  std::this_thread::sleep_for(contention.duration / 10);
  const std::uint64_t allocated_before = allocations();
  std::this_thread::sleep_for(contention.duration * 9 / 10);
  const std::chrono::duration<double, std::nano> elapsed = Clock::now() - begin;
  const std::uint64_t allocated_after = allocations();
  is_over = true;
  start.arrive_and_wait();
  threads.clear();

  std::uint64_t sum = 0;
  std::uint64_t min = acquired[0][0];
  std::uint64_t max = 0;
  for (const auto& of_thread : acquired) {
    for (const std::uint64_t count : of_thread) {
      sum += count;
      min = std::min(min, count);
      max = std::max(max, count);
    }
  }
  const auto total = static_cast<double>(sum);
  const double fair = total / static_cast<double>(contention.threads * contention.tasks);
  const buf::BounceStatistics statistics = (*tracker)->statistics();
  const auto waits = static_cast<double>(statistics.waits);
  return {
      .nanoseconds = elapsed.count() / total,
      .min_share = static_cast<double>(min) / fair,
      .max_share = static_cast<double>(max) / fair,
      .waits = waits / total,
      .mean_wait_nanoseconds = static_cast<double>(statistics.wait_time.count()) / waits,
      .max_wait_nanoseconds = static_cast<double>(statistics.longest_wait.count()),
      .allocations = static_cast<double>(allocated_after - allocated_before) / total,
  };
}

}  // namespace guestio::bench
