// SPDX-License-Identifier: MIT
// Random schedules on several accounts. Each step is checked against the documented guarantees,
// with the test's own bookkeeping. bounce_account_test.cc compares one account with a naive model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <random>

#include "guestio/buf/test/bounce_waiter.h"
#include "testing/rounds.h"

namespace guestio::buf {
namespace {

using test::BounceWaiter;

constexpr std::size_t kLimitOfSecondDevice = 4;  // pages of overflow

struct Request {
  Request(int name, std::vector<int>& served, std::size_t wanted)
      : waiter(name, served), pages(wanted) {}
  BounceWaiter waiter;
  std::size_t pages;
  task::StopSource stop;
};

struct Thread {
  BounceAccount* account;
  std::size_t quota;
  std::size_t device;
  std::deque<Request> requests;  // in order of arrival

  [[nodiscard]] std::size_t used() const {
    std::size_t sum = 0;
    for (const Request& request : requests) sum += request.waiter.is_holding() ? request.pages : 0;
    return sum;
  }
  [[nodiscard]] std::size_t borrowed() const { return used() - std::min(used(), quota); }
  [[nodiscard]] std::size_t own_free() const { return quota - std::min(used(), quota); }
  [[nodiscard]] auto longest_waiter() const {
    return std::ranges::find_if(requests,
                                [](const Request& one) { return one.waiter.is_waiting(); });
  }
  [[nodiscard]] bool is_waiting() const { return longest_waiter() != requests.end(); }
  /// The pages its longest waiter lacks.
  [[nodiscard]] std::size_t lack() const { return longest_waiter()->pages - own_free(); }
};

class BouncePropertyTest : public testing::TestWithParam<unsigned> {
 protected:
  BouncePropertyTest() {
    for (std::size_t i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      thread.device = i % 2;
      thread.quota = 1 + random_() % 4;
      const std::size_t share = 1 + random_() % 3;
      thread.account = *trackers_[thread.device].add_account(
          {ByteCount(thread.quota * kPageSize), ByteCount(share * kPageSize)});
      thread.account->open([this](BounceAccount& called) { calls_.push_back(&called); });
      overflow_ += share;
    }
  }

  // Steps.

  void ask() {
    Thread& thread = threads_[random_() % threads_.size()];
    const std::size_t most = thread.account->max_grant() / kPageSize;
    const std::size_t usual = std::min<std::size_t>(most, 3);
    const std::size_t pages = 1 + random_() % (random_() % 8 == 0 ? most : usual);
    Request& request = thread.requests.emplace_back(arrivals_++, served_, pages);
    request.waiter.start(scope_, *thread.account, pages * kPageSize,
                         {.token = request.stop.token()});
  }
  void end_one() {
    Thread& thread = threads_[random_() % threads_.size()];
    if (thread.requests.empty()) return;
    end(thread.requests[random_() % thread.requests.size()]);
    while (!thread.requests.empty() && thread.requests.front().waiter.is_over()) {
      thread.requests.pop_front();
    }
  }
  static void end(Request& request) {
    if (request.waiter.is_waiting()) request.stop.request_stop();
    request.waiter.release();
  }
  /// The work of the threads' loops.
  void answer_calls() {
    while (!calls_.empty()) {
      BounceAccount* const called = calls_.front();
      calls_.pop_front();
      called->serve();
    }
  }

  // Guarantees.

  void check_thread(const Thread& thread) {
    ASSERT_EQ(thread.account->held(), thread.used() * kPageSize);
    if (!thread.is_waiting()) return;
    ASSERT_GT(thread.longest_waiter()->pages, thread.own_free()) << "the quota was sufficient";
    for (auto later = thread.longest_waiter(); later != thread.requests.end(); ++later) {
      ASSERT_FALSE(later->waiter.has_buffer()) << "overtaking on one thread";
    }
  }
  void check_limits() {
    borrowed_ = {};
    for (const Thread& thread : threads_) borrowed_[thread.device] += thread.borrowed();
    ASSERT_LE(borrowed_[1], kLimitOfSecondDevice);
    ASSERT_EQ(budget_.free_overflow(), ByteCount(free_overflow() * kPageSize))
        << "unused overflow is not returned";
  }
  [[nodiscard]] std::size_t free_overflow() const {
    return overflow_ - borrowed_[0] - borrowed_[1];
  }

  /// The oldest eligible waiter for overflow does not fit; later ones wait.
  void check_line() {
    std::vector<const Thread*> line;
    for (const Thread& thread : threads_) {
      const std::size_t reach = thread.account->max_grant() / kPageSize - thread.quota;
      if (thread.is_waiting() && thread.lack() <= reach) line.push_back(&thread);
    }
    std::ranges::sort(line, {},
                      [](const Thread* one) { return one->longest_waiter()->waiter.name(); });
    for (const Thread* thread : line) {
      const bool is_held_up =
          thread->device == 1 && thread->lack() > kLimitOfSecondDevice - borrowed_[1];
      if (is_held_up || (thread->device == 1 && is_second_device_held_up_)) {
        is_second_device_held_up_ = true;
        continue;
      }
      ASSERT_GT(thread->lack(), free_overflow()) << "a fitting waiter is not served";
      break;
    }
    is_second_device_held_up_ = false;
  }
  void check() {
    for (const Thread& thread : threads_) ASSERT_NO_FATAL_FAILURE(check_thread(thread));
    ASSERT_NO_FATAL_FAILURE(check_limits());
    ASSERT_NO_FATAL_FAILURE(check_line());
  }

  std::mt19937_64 random_{GetParam()};
  std::deque<BounceAccount*> calls_;
  std::vector<int> served_;
  int arrivals_ = 0;
  BounceBudget budget_;
  std::array<BounceBufferTracker, 2> trackers_{
      BounceBufferTracker({.budget = &budget_}),
      BounceBufferTracker(
          {.budget = &budget_, .overflow_limit = ByteCount(kLimitOfSecondDevice * kPageSize)})};
  std::size_t overflow_ = 0;               // pages
  std::array<std::size_t, 2> borrowed_{};  // pages, by device
  bool is_second_device_held_up_ = false;
  task::Scope scope_;
  std::array<Thread, 5> threads_;
};

TEST_P(BouncePropertyTest, EveryGuaranteeHolds) {
  for (int round = 0; round < single_threaded_rounds(3000); ++round) {
    random_() % 2 == 0 ? ask() : end_one();
    answer_calls();
    ASSERT_NO_FATAL_FAILURE(check()) << "round " << round;
  }
  for (Thread& thread : threads_) {
    // From the back, so that no waiter is served.
    for (auto one = thread.requests.rbegin(); one != thread.requests.rend(); ++one) end(*one);
  }
  answer_calls();
  ASSERT_NO_FATAL_FAILURE(check());
  EXPECT_EQ(budget_.free_overflow(), budget_.overflow());
}

INSTANTIATE_TEST_SUITE_P(Seeds, BouncePropertyTest, testing::Range(0u, 20u));

}  // namespace
}  // namespace guestio::buf
