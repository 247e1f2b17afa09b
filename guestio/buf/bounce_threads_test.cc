// SPDX-License-Identifier: MIT
// One tracker and real threads, for the thread sanitizer.
#include <gtest/gtest.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <thread>

#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/task/wait_queue.h"

namespace guestio::buf {
namespace {

constexpr int kThreads = 4;
constexpr int kTasks = 16;

/// A thread with a loop: yielding coroutines, and calls from other threads.
class Worker {
 public:
  Worker(BounceBufferTracker& tracker, std::size_t index)
      : account_(tracker.account(index)), random_(index) {
    account_.open([this](BounceAccount&) { call(); });
  }

  /// Starts `kTasks` of `rounds` rounds each and runs until they end.
  void run(int rounds) {
    for (Client& client : clients_) scope_.spawn(work(client, rounds));
    while (scope_.running() != 0) {
      if (take_call(yielding_.is_empty())) account_.serve();
      if (random_() % 4 == 0) cancel_one();
      yielding_.wake_one();
    }
    account_.serve();
  }

  [[nodiscard]] std::uint64_t granted() const noexcept { return granted_; }
  [[nodiscard]] std::uint64_t cancelled() const noexcept { return cancelled_; }
  [[nodiscard]] std::uint64_t least_of_a_client() const noexcept {
    std::uint64_t least = ~std::uint64_t{0};
    for (const Client& client : clients_) least = std::min(least, client.granted);
    return least;
  }

 private:
  struct Client {
    std::unique_ptr<task::StopSource> stop;
    std::uint64_t granted = 0;
  };

  task::Task<> work(Client& client, int rounds) {
    for (int round = 0; round < rounds; ++round) {
      client.stop = std::make_unique<task::StopSource>();
      AcquireOptions options;
      options.token = client.stop->token();
      const std::size_t pages = 1 + random_() % (random_() % 8 == 0 ? 12 : 3);
      auto bounce = co_await account_.acquire(pages * kPageSize, options);
      if (!bounce) {
        ++cancelled_;
        continue;
      }
      ++client.granted;
      ++granted_;
      // No other thread writes to it meanwhile: the sanitizer would detect that.
      std::memset(bounce->bytes().data(), round, 64);
      (void)co_await yielding_.wait();
      EXPECT_EQ(bounce->bytes()[63], static_cast<std::byte>(round));
    }
  }
  void cancel_one() {
    Client& client = clients_[random_() % clients_.size()];
    if (client.stop) client.stop->request_stop();
  }

  void call() {
    const std::lock_guard lock(mutex_);
    is_called_ = true;
    changed_.notify_one();
  }
  bool take_call(bool may_sleep) {
    std::unique_lock lock(mutex_);
    if (may_sleep) changed_.wait(lock, [this] { return is_called_; });
    return std::exchange(is_called_, false);
  }

  BounceAccount& account_;
  std::mt19937_64 random_;
  std::array<Client, kTasks> clients_;
  task::WaitQueue yielding_;
  task::Scope scope_;
  std::uint64_t granted_ = 0;
  std::uint64_t cancelled_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_called_ = false;  // protected by mutex_
};

TEST(BounceThreads, ManyCancellationsLeaveTheBudgetComplete) {
  const auto tracker = std::move(*BounceBufferTracker::create(ByteCount(8 * kPageSize), kThreads));
  std::array<std::uint64_t, kThreads> granted{};
  std::array<std::uint64_t, kThreads> cancelled{};
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      Worker worker(*tracker, i);
      worker.run(500);
      granted[i] = worker.granted();
      cancelled[i] = worker.cancelled();
      tracker->account(i).close();
    });
  }
  threads.clear();
  for (std::size_t i = 0; i < kThreads; ++i) {
    EXPECT_EQ(granted[i] + cancelled[i], 500u * kTasks);
    EXPECT_GT(cancelled[i], 0u);
    EXPECT_EQ(tracker->account(i).held(), 0u);
  }
  EXPECT_EQ(tracker->budget().free_overflow(), tracker->budget().overflow());
  EXPECT_GT(tracker->statistics().waits, 0u);
}

}  // namespace
}  // namespace guestio::buf
