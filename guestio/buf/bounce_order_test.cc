// SPDX-License-Identifier: MIT
// Entries in the queue for overflow when their request changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "guestio/buf/test/bounce_waiter.h"

namespace guestio::buf {
namespace {

using test::BounceWaiter;
using testing::ElementsAre;

class BounceOrderTest : public testing::Test {
 protected:
  BounceAccount& add(std::size_t quota, std::size_t overflow) {
    BounceAccount& account =
        **tracker_.add_account({ByteCount(quota * kPageSize), ByteCount(overflow * kPageSize)});
    account.open([this](BounceAccount& called) { calls_.push_back(&called); });
    return account;
  }
  void answer_calls() {
    while (!calls_.empty()) {
      BounceAccount* const called = calls_.front();
      calls_.pop_front();
      called->serve();
    }
  }
  BounceWaiter& waiter(int name) { return waiters_.emplace_back(name, served_); }

  std::deque<BounceAccount*> calls_;
  std::vector<int> served_;
  BounceBudget budget_;
  BounceBufferTracker tracker_{{.budget = &budget_}};
  task::Scope scope_;
  std::deque<BounceWaiter> waiters_;
};

TEST_F(BounceOrderTest, AWaiterDoesNotInheritTheQueuePositionOfACancelledOne) {
  BounceAccount& holder = add(0, 7);
  BounceAccount& other = add(7, 0);
  const auto held = *holder.try_acquire(kPageSize);
  task::StopSource stop_first;
  task::StopSource stop_third;
  waiter(1).start(scope_, other, 14 * kPageSize, {.token = stop_first.token()});
  waiter(2).start(scope_, holder, 4 * kPageSize);
  waiter(3).start(scope_, other, 14 * kPageSize, {.token = stop_third.token()});
  stop_first.request_stop();
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(2)) << "6 pages are free, and the third came later";
  stop_third.request_stop();
  answer_calls();
}

TEST_F(BounceOrderTest, OvertakingIsBoundedForRequestsOfDifferentSizes) {
  constexpr int kRequests = 100;
  BounceAccount& holder = add(1, 2);
  BounceAccount& patient = add(1, 0);
  auto two = *holder.try_acquire(2 * kPageSize);
  auto one = *holder.try_acquire(kPageSize);
  waiter(0).start(scope_, patient, 3 * kPageSize);
  for (int i = 1; i <= kRequests; ++i) {
    waiter(i).start(scope_, holder, (i % 2 == 1 ? 2 : 1) * kPageSize);
  }
  two = TrackedBounceBuffer();
  one = TrackedBounceBuffer();
  std::size_t next = 1;
  for (; waiters_[0].is_waiting() && next <= kRequests; ++next) {
    waiters_[next].release();
    answer_calls();
  }
  // Two pages are returned, each after that many.
  EXPECT_LE(next, 2 * (BounceBufferTracker::kMaxOvertakes + 1));
  waiters_[0].release();
  answer_calls();
  for (; next <= kRequests; ++next) {
    waiters_[next].release();
    answer_calls();
  }
  EXPECT_EQ(served_.size(), kRequests + 1u);
}

}  // namespace
}  // namespace guestio::buf
