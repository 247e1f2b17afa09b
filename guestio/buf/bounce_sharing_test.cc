// SPDX-License-Identifier: MIT
// Several accounts: overflow, limits of devices and of the total, wake-ups between threads. One
// thread simulates the others; bounce_threads_test.cc has real ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "guestio/buf/test/bounce_waiter.h"

namespace guestio::buf {
namespace {

using test::BounceWaiter;
using testing::ElementsAre;

class BounceSharingTest : public testing::Test {
 protected:
  /// An account with `quota` pages of its own. Adds `overflow` pages to the shared ones.
  BounceAccount& add(BounceBufferTracker& tracker, std::size_t quota, std::size_t overflow) {
    BounceAccount& account =
        **tracker.add_account({ByteCount(quota * kPageSize), ByteCount(overflow * kPageSize)});
    account.open([this](BounceAccount& called) { calls_.push_back(&called); });
    accounts_.push_back(&account);
    return account;
  }
  /// The work of the other threads' loops.
  void answer_calls() {
    while (!calls_.empty()) {
      BounceAccount* const called = calls_.front();
      calls_.pop_front();
      called->serve();
    }
  }
  BounceWaiter& waiter(int name) { return waiters_.emplace_back(name, served_); }
  std::size_t held() const {
    std::size_t sum = 0;
    for (const BounceAccount* account : accounts_) sum += account->held();
    return sum;
  }

  std::deque<BounceAccount*> calls_;
  std::vector<BounceAccount*> accounts_;
  std::vector<int> served_;
  BounceBudget budget_;
  BounceBufferTracker tracker_{{.budget = &budget_}};
  BounceBufferTracker other_tracker_{
      {.budget = &budget_, .overflow_limit = ByteCount(4 * kPageSize)}};
  task::Scope scope_;
  std::deque<BounceWaiter> waiters_;
};

TEST_F(BounceSharingTest, CreateHalvesEachLimit) {
  const auto tracker = std::move(*BounceBufferTracker::create(ByteCount(9 * kPageSize), 3));
  ASSERT_EQ(tracker->accounts(), 3u);
  EXPECT_EQ(tracker->account(2).share(),
            (BounceShare{ByteCount(5 * kPageSize), ByteCount(4 * kPageSize)}));
  EXPECT_EQ(tracker->account(0).max_grant(), 17 * kPageSize);
  EXPECT_EQ(tracker->budget().overflow(), ByteCount(12 * kPageSize));
}

TEST_F(BounceSharingTest, ASingleThreadCanHoldTheDefaultLimit) {
  const auto tracker =
      std::move(*BounceBufferTracker::create(BounceBufferTracker::kDefaultLimit, 1));
  const auto all = tracker->account(0).try_acquire(std::size_t{8} << 20);
  EXPECT_TRUE(all.has_value());
  EXPECT_EQ(tracker->account(0).try_acquire(1).error().kind, ErrorKind::kBusy);
}

TEST_F(BounceSharingTest, Fault07AnIdleThreadsBudgetServesABusyOne) {
  BounceAccount& busy = add(tracker_, 4, 4);
  add(tracker_, 4, 4);
  add(tracker_, 4, 4);
  auto all = busy.try_acquire(16 * kPageSize);
  ASSERT_TRUE(all) << "its own 8 pages and the unused overflow of others";
  EXPECT_EQ(busy.held(), 16 * kPageSize);
  EXPECT_EQ(busy.try_acquire(16 * kPageSize + 1).error().kind, ErrorKind::kTooLarge);
  *all = TrackedBounceBuffer();
  EXPECT_EQ(budget_.free_overflow(), ByteCount(12 * kPageSize));
}

TEST_F(BounceSharingTest, Fault07ABusyThreadLeavesOthersTheirQuota) {
  BounceAccount& busy = add(tracker_, 4, 4);
  BounceAccount& other = add(tracker_, 4, 4);
  const auto all = busy.try_acquire(12 * kPageSize);
  EXPECT_TRUE(other.try_acquire(4 * kPageSize));
  EXPECT_EQ(other.try_acquire(5 * kPageSize).error().kind, ErrorKind::kBusy);
}

TEST_F(BounceSharingTest, OverflowIsLentInTheOrderOfArrival) {
  BounceAccount& holder = add(tracker_, 1, 8);
  BounceAccount& first = add(tracker_, 1, 0);
  BounceAccount& second = add(tracker_, 1, 0);
  auto all = *holder.try_acquire(9 * kPageSize);
  waiter(1).start(scope_, first, 8 * kPageSize);
  waiter(2).start(scope_, second, 3 * kPageSize);
  waiter(3).start(scope_, first, kPageSize);
  EXPECT_EQ(holder.try_acquire(3 * kPageSize).error().kind, ErrorKind::kBusy);
  all = TrackedBounceBuffer();
  EXPECT_THAT(calls_, ElementsAre(&first)) << "an unfit waiter is not woken";
  EXPECT_EQ(holder.try_acquire(3 * kPageSize).error().kind, ErrorKind::kBusy)
      << "a later request does not overtake the second";
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(1));
  waiters_[0].release();
  answer_calls();
  EXPECT_THAT(served_, testing::UnorderedElementsAre(1, 2, 3));
}

TEST_F(BounceSharingTest, AThreadIsWokenOnceHoweverOftenItIsServed) {
  BounceAccount& holder = add(tracker_, 1, 8);
  BounceAccount& other = add(tracker_, 1, 0);
  auto one = *holder.try_acquire(5 * kPageSize);
  auto rest = *holder.try_acquire(4 * kPageSize);
  waiter(1).start(scope_, other, 2 * kPageSize);
  waiter(2).start(scope_, other, 2 * kPageSize);
  one = TrackedBounceBuffer();
  rest = TrackedBounceBuffer();
  EXPECT_EQ(calls_.size(), 1u);
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(1, 2));
}

TEST_F(BounceSharingTest, PagesGrantedToACancelledWaiterGoToTheNext) {
  BounceAccount& holder = add(tracker_, 1, 4);
  BounceAccount& leaver = add(tracker_, 1, 0);
  BounceAccount& other = add(tracker_, 1, 0);
  auto all = *holder.try_acquire(5 * kPageSize);
  task::StopSource stop;
  waiter(1).start(scope_, leaver, 5 * kPageSize, {.token = stop.token()});
  waiter(2).start(scope_, other, 5 * kPageSize);
  all = TrackedBounceBuffer();
  ASSERT_THAT(calls_, ElementsAre(&leaver));
  stop.request_stop();
  EXPECT_EQ(waiters_[0].error().kind, ErrorKind::kCancelled);
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(2));
  waiters_[1].release();
  EXPECT_EQ(budget_.free_overflow(), ByteCount(4 * kPageSize));
}

TEST_F(BounceSharingTest, ACancelledWaiterAdvancesTheOthers) {
  BounceAccount& holder = add(tracker_, 1, 4);
  BounceAccount& leaver = add(tracker_, 1, 0);
  BounceAccount& other = add(tracker_, 1, 0);
  const auto some = holder.try_acquire(3 * kPageSize);
  task::StopSource stop;
  waiter(1).start(scope_, leaver, 5 * kPageSize, {.token = stop.token()});
  waiter(2).start(scope_, other, 2 * kPageSize);
  EXPECT_TRUE(waiters_[1].is_waiting());
  stop.request_stop();
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(2));
}

TEST_F(BounceSharingTest, WaitersOfTwoThreadsDoNotDeadlock) {
  BounceAccount& one = add(tracker_, 2, 4);
  BounceAccount& two = add(tracker_, 2, 4);
  auto first = *one.try_acquire(6 * kPageSize);
  auto second = *two.try_acquire(6 * kPageSize);
  waiter(1).start(scope_, one, 10 * kPageSize);
  waiter(2).start(scope_, two, 10 * kPageSize);
  first = TrackedBounceBuffer();
  second = TrackedBounceBuffer();
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(1));
  waiters_[0].release();
  answer_calls();
  EXPECT_THAT(served_, ElementsAre(1, 2));
}

TEST_F(BounceSharingTest, ARequestForTheWholeQuotaWaitsForItsOwnReleases) {
  BounceAccount& account = add(tracker_, 8, 8);
  auto own = *account.try_acquire(4 * kPageSize);
  waiter(1).start(scope_, account, 16 * kPageSize);
  EXPECT_TRUE(waiters_[0].is_waiting());
  own = TrackedBounceBuffer();
  EXPECT_TRUE(waiters_[0].has_buffer());
}

TEST_F(BounceSharingTest, Fault07OvertakingIsBounded) {
  BounceAccount& holder = add(tracker_, 1, 1);
  BounceAccount& patient = add(tracker_, 1, 0);
  std::deque<TrackedBounceBuffer> held;
  held.push_back(*holder.try_acquire(2 * kPageSize));
  waiter(0).start(scope_, patient, 2 * kPageSize);
  // The holder's own waiters pass on the two pages, a bounded number of times.
  for (int i = 1; i <= 100; ++i) waiter(i).start(scope_, holder, 2 * kPageSize);
  held.clear();
  for (std::size_t i = 1; waiters_[0].is_waiting(); ++i) {
    ASSERT_LE(i, BounceBufferTracker::kMaxOvertakes);
    waiters_[i].release();
    answer_calls();
  }
  EXPECT_LE(served_.size(), BounceBufferTracker::kMaxOvertakes + 1);
  waiters_[0].release();
  for (int i = 1; i <= 100; ++i) {
    answer_calls();
    waiters_[static_cast<std::size_t>(i)].release();
  }
  EXPECT_EQ(served_.size(), 101u);
}

TEST_F(BounceSharingTest, TheLimitOfADeviceBlocksThatDeviceOnly) {
  BounceAccount& one = add(tracker_, 1, 10);
  BounceAccount& limited = add(other_tracker_, 1, 0);
  BounceAccount& also_limited = add(other_tracker_, 1, 0);
  EXPECT_EQ(limited.max_grant(), 5 * kPageSize);
  auto max_grant = *limited.try_acquire(5 * kPageSize);
  waiter(1).start(scope_, also_limited, 2 * kPageSize);
  EXPECT_TRUE(waiters_[0].is_waiting()) << "4 pages of overflow for the device, all in use";
  EXPECT_TRUE(one.try_acquire(7 * kPageSize)) << "without effect on the other device";
  max_grant = TrackedBounceBuffer();
  answer_calls();
  EXPECT_TRUE(waiters_[0].has_buffer());
}

TEST_F(BounceSharingTest, TheTotalBoundsAllTrackers) {
  BounceBudget small(ByteCount(10 * kPageSize));
  BounceBufferTracker tracker{{.budget = &small}};
  BounceBufferTracker other{{.budget = &small}};
  EXPECT_TRUE(tracker.add_account(BounceShare::of(ByteCount(6 * kPageSize))));
  EXPECT_EQ(other.add_account(BounceShare::of(ByteCount(6 * kPageSize))).error().kind,
            ErrorKind::kTooLarge);
  EXPECT_TRUE(other.add_account(BounceShare::of(ByteCount(4 * kPageSize))));
}

TEST_F(BounceSharingTest, AClosedAccountIsReopened) {
  const BounceShare share = BounceShare::of(ByteCount(8 * kPageSize));
  const auto ignore = [](BounceAccount&) {};
  auto first = *tracker_.open_account(share, ignore);
  auto second = *tracker_.open_account(share, ignore);
  BounceAccount* const closed = first.get();
  first.reset();
  auto larger = *tracker_.open_account(BounceShare::of(ByteCount(12 * kPageSize)), ignore);
  EXPECT_NE(larger.get(), closed);
  EXPECT_EQ(tracker_.open_account(share, ignore)->get(), closed);
  EXPECT_EQ(tracker_.accounts(), 3u);
}

TEST_F(BounceSharingTest, StatisticsAreTheSumOfTheAccounts) {
  BounceAccount& one = add(tracker_, 4, 0);
  BounceAccount& two = add(tracker_, 4, 0);
  auto all = *one.try_acquire(4 * kPageSize);
  EXPECT_TRUE(two.try_acquire(kPageSize));
  waiter(1).start(scope_, one, kPageSize);
  all = TrackedBounceBuffer();
  const BounceStatistics sum = tracker_.statistics();
  EXPECT_EQ(sum.grants, 3u);
  EXPECT_EQ(sum.waits, 1u);
  EXPECT_EQ(sum.high_water, ByteCount(5 * kPageSize));
  EXPECT_EQ(sum.wait_time, sum.longest_wait);
}

}  // namespace
}  // namespace guestio::buf
