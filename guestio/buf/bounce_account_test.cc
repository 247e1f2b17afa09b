// SPDX-License-Identifier: MIT
// A single account: order, limits, cancellation. bounce_sharing_test.cc has several.
#include "guestio/buf/bounce_account.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>

#include "guestio/buf/test/bounce_waiter.h"

namespace guestio::buf {
namespace {

using test::BounceWaiter;
using testing::ElementsAre;
using testing::IsEmpty;

class BounceAccountTest : public testing::Test {
 protected:
  BounceAccount& make(std::size_t pages) {
    tracker_ = std::move(*BounceBufferTracker::create(ByteCount(pages * kPageSize), 1));
    return tracker_->account(0);
  }
  BounceWaiter& waiter(int name) { return waiters_.emplace_back(name, served_); }

  std::unique_ptr<BounceBufferTracker> tracker_;
  std::vector<int> served_;
  task::Scope scope_;
  std::deque<BounceWaiter> waiters_;
};

TEST_F(BounceAccountTest, ReturnsItsPages) {
  BounceAccount& account = make(8);
  EXPECT_EQ(account.max_grant(), 8 * kPageSize);
  {
    auto buffer = account.try_acquire(3 * kPageSize - 1);
    ASSERT_TRUE(buffer);
    EXPECT_EQ(buffer->size(), 3 * kPageSize - 1);
    EXPECT_EQ(buffer->segments().size(), 1u);
    EXPECT_EQ(account.held(), 3 * kPageSize);
    const TrackedBounceBuffer other = std::move(*buffer);
    EXPECT_EQ(account.held(), 3 * kPageSize);
    EXPECT_EQ(buffer->size(), 0u);
  }
  EXPECT_EQ(account.held(), 0u);
  EXPECT_EQ(account.statistics().grants, 1u);
  EXPECT_EQ(account.statistics().high_water, ByteCount(3 * kPageSize));
}

TEST_F(BounceAccountTest, OneThreadCanHoldTheWholeBudget) {
  BounceAccount& account = make(8);
  const auto max_grant = account.try_acquire(8 * kPageSize);
  ASSERT_TRUE(max_grant);
  EXPECT_EQ(account.try_acquire(1).error().kind, ErrorKind::kBusy);
}

TEST_F(BounceAccountTest, SizeZeroIsAlwaysGranted) {
  BounceAccount& account = make(1);
  auto all = *account.try_acquire(kPageSize);
  waiter(1).start(scope_, account, 1);
  const auto nothing = account.try_acquire(0);
  ASSERT_TRUE(nothing);
  EXPECT_EQ(nothing->size(), 0u);
  EXPECT_EQ(nothing->segments().size(), 1u);
  EXPECT_TRUE(waiter(2).start(scope_, account, 0).has_buffer());
  EXPECT_TRUE(waiters_[0].is_waiting());
  all = TrackedBounceBuffer();
}

TEST_F(BounceAccountTest, Fault05ARequestAboveTheBudgetFailsImmediately) {
  BounceAccount& account = make(4);
  EXPECT_EQ(account.try_acquire(4 * kPageSize + 1).error(),
            Error::make(ErrorKind::kTooLarge, "", 4 * kPageSize + 1, 4 * kPageSize));
  EXPECT_EQ(waiter(1).start(scope_, account, 4 * kPageSize + 1).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(waiter(2).start(scope_, account, ~std::size_t{0}).error().kind, ErrorKind::kTooLarge);
}

TEST_F(BounceAccountTest, Fault05OrIsTruncatedAtTheCallersChoice) {
  BounceAccount& account = make(4);
  const AcquireOptions cut{.oversize = Oversize::kTruncate};
  EXPECT_EQ(account.try_acquire(~std::size_t{0}, cut)->size(), 4 * kPageSize);
  BounceWaiter& one = waiter(1).start(scope_, account, 9 * kPageSize, cut);
  ASSERT_TRUE(one.has_buffer());
  EXPECT_EQ(one.buffer().size(), 4 * kPageSize);
  EXPECT_TRUE(waiter(2).start(scope_, account, 9 * kPageSize, cut).is_waiting());
  one.release();
  EXPECT_EQ(waiters_[1].buffer().size(), 4 * kPageSize);
}

TEST_F(BounceAccountTest, Fault06ABufferRemembersItsOwnPages) {
  BounceAccount& account = make(8);
  {
    auto small = *account.try_acquire(kPageSize);
    auto large = *account.try_acquire(5 * kPageSize);
    std::swap(small, large);
    small = TrackedBounceBuffer();
    EXPECT_EQ(account.held(), kPageSize);
    small = std::move(large);
    EXPECT_EQ(account.held(), kPageSize);
  }
  EXPECT_EQ(account.held(), 0u);
  EXPECT_TRUE(account.try_acquire(8 * kPageSize));
}

TEST_F(BounceAccountTest, Fault04HasTheRequestedAlignment) {
  BounceAccount& account = make(8);
  for (std::size_t alignment = 1; alignment <= std::size_t{1} << 22; alignment *= 2) {
    const auto buffer = account.try_acquire(5000, {.alignment = alignment});
    ASSERT_TRUE(buffer);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->bytes().data()) % alignment, 0u);
    EXPECT_EQ(account.held(), 2 * kPageSize) << "alignment costs no pages";
  }
}

TEST_F(BounceAccountTest, Fault07FirstComeFirstServed) {
  BounceAccount& account = make(4);
  auto all = *account.try_acquire(4 * kPageSize);
  waiter(1).start(scope_, account, 3 * kPageSize);
  waiter(2).start(scope_, account, kPageSize);
  EXPECT_EQ(account.try_acquire(kPageSize).error().kind, ErrorKind::kBusy) << "no overtaking";
  all = TrackedBounceBuffer();
  EXPECT_THAT(served_, ElementsAre(1, 2));
  EXPECT_EQ(account.statistics().waits, 2u);
  EXPECT_GT(account.statistics().longest_wait.count(), 0);
}

TEST_F(BounceAccountTest, Fault07ALargeRequestDoesNotStarve) {
  BounceAccount& account = make(4);
  std::deque<TrackedBounceBuffer> small;
  for (int i = 0; i < 4; ++i) small.push_back(*account.try_acquire(kPageSize));
  BounceWaiter& big = waiter(0).start(scope_, account, 4 * kPageSize);
  for (int i = 1; i <= 4; ++i) waiter(i).start(scope_, account, kPageSize);
  // Small requests keep arriving; the big one gets the pages they release.
  for (int i = 0; i < 3; ++i) {
    small.pop_front();
    EXPECT_THAT(served_, IsEmpty());
    EXPECT_EQ(account.try_acquire(kPageSize).error().kind, ErrorKind::kBusy)
        << "a page is free, but not for a later request";
  }
  small.pop_front();
  EXPECT_THAT(served_, ElementsAre(0));
  big.release();
  EXPECT_THAT(served_, ElementsAre(0, 1, 2, 3, 4));
}

TEST_F(BounceAccountTest, Fault07AReleaseWakesExactlyTheFittingWaiters) {
  BounceAccount& account = make(4);
  auto one = *account.try_acquire(kPageSize);
  auto three = *account.try_acquire(3 * kPageSize);
  waiter(1).start(scope_, account, kPageSize);
  waiter(2).start(scope_, account, 2 * kPageSize);
  waiter(3).start(scope_, account, kPageSize);
  one = TrackedBounceBuffer();
  EXPECT_THAT(served_, ElementsAre(1));
  three = TrackedBounceBuffer();
  EXPECT_THAT(served_, ElementsAre(1, 2, 3));
}

TEST_F(BounceAccountTest, Fault07AWokenWaiterFindsItsMemory) {
  BounceAccount& account = make(4);
  auto all = *account.try_acquire(4 * kPageSize);
  std::byte* const memory = all.bytes().data();
  BounceWaiter& first = waiter(1).start(scope_, account, 4 * kPageSize);
  all = TrackedBounceBuffer();
  ASSERT_TRUE(first.has_buffer());
  EXPECT_EQ(first.buffer().bytes().data(), memory) << "no second block";
}

TEST_F(BounceAccountTest, ACancelledWaiterLeavesTheQueue) {
  BounceAccount& account = make(2);
  auto all = *account.try_acquire(2 * kPageSize);
  task::StopSource stop;
  BounceWaiter& cancelled = waiter(1).start(scope_, account, kPageSize, {.token = stop.token()});
  BounceWaiter& other = waiter(2).start(scope_, account, kPageSize);
  stop.request_stop();
  EXPECT_EQ(cancelled.error().kind, ErrorKind::kCancelled);
  EXPECT_EQ(account.statistics().cancelled, 1u);
  EXPECT_TRUE(other.is_waiting());
  all = TrackedBounceBuffer();
  EXPECT_TRUE(other.has_buffer());
  EXPECT_EQ(account.held(), kPageSize);
}

TEST_F(BounceAccountTest, ACancelledFirstWaiterLetsTheNextProceed) {
  BounceAccount& account = make(4);
  const auto held = account.try_acquire(2 * kPageSize);
  task::StopSource stop;
  waiter(1).start(scope_, account, 3 * kPageSize, {.token = stop.token()});
  BounceWaiter& small = waiter(2).start(scope_, account, kPageSize);
  EXPECT_TRUE(small.is_waiting());
  stop.request_stop();
  EXPECT_TRUE(small.has_buffer());
}

TEST_F(BounceAccountTest, AStoppedTokenDoesNotWait) {
  BounceAccount& account = make(1);
  auto all = *account.try_acquire(kPageSize);
  task::StopSource stop;
  stop.request_stop();
  const AcquireOptions options{.token = stop.token()};
  EXPECT_EQ(waiter(1).start(scope_, account, kPageSize, options).error().kind,
            ErrorKind::kCancelled);
  EXPECT_TRUE(waiter(2).start(scope_, account, 0, options).has_buffer());
}

TEST_F(BounceAccountTest, ADestroyedWaiterLeavesTheQueue) {
  BounceAccount& account = make(2);
  const auto held = account.try_acquire(kPageSize);
  BounceWaiter& later = waiter(1);
  {
    auto abandoned = account.acquire(2 * kPageSize);
    ASSERT_FALSE(abandoned.await_ready());
    ASSERT_TRUE(abandoned.await_suspend(std::noop_coroutine()));
    later.start(scope_, account, kPageSize);
    EXPECT_TRUE(later.is_waiting());
  }
  EXPECT_TRUE(later.has_buffer());
  later.release();
  EXPECT_EQ(account.held(), kPageSize);
}

task::Task<> release_and_destroy(task::WaitQueue& queue, TrackedBounceBuffer& buffer,
                                 std::optional<BounceAccount::Acquire>& victim) {
  (void)co_await queue.wait();
  buffer = TrackedBounceBuffer();
  victim.reset();
}

TEST_F(BounceAccountTest, AWaiterDestroyedAfterItsWakeUpReturnsItsPages) {
  BounceAccount& account = make(2);
  auto all = *account.try_acquire(2 * kPageSize);
  std::optional<BounceAccount::Acquire> victim;
  victim.emplace(account, 2 * kPageSize, AcquireOptions{});
  ASSERT_FALSE(victim->await_ready());
  ASSERT_TRUE(victim->await_suspend(std::noop_coroutine()));
  task::WaitQueue queue;
  scope_.spawn(release_and_destroy(queue, all, victim));
  // A release during a wake-up wakes others only afterwards.
  queue.wake_one();
  EXPECT_FALSE(victim.has_value());
  EXPECT_EQ(account.held(), 0u);
}

TEST_F(BounceAccountTest, AWokenWaiterMayReleaseAndAcquireAgain) {
  BounceAccount& account = make(1);
  auto all = *account.try_acquire(kPageSize);
  std::vector<BounceWaiter*> line;
  for (int i = 0; i < 100; ++i) line.push_back(&waiter(i).start(scope_, account, kPageSize));
  all = TrackedBounceBuffer();
  for (BounceWaiter* const one : line) {
    ASSERT_TRUE(one->has_buffer());
    one->release();
  }
  EXPECT_EQ(served_.size(), 100u);
}

TEST_F(BounceAccountTest, Fault19BuffersAreRecycledAndNotZeroed) {
  BounceAccount& account = make(32);
  auto first = *account.try_acquire(32 * kPageSize);
  std::byte* const memory = first.bytes().data();
  std::memset(memory, 0x5a, 32 * kPageSize);
  first = TrackedBounceBuffer();
  const auto second = *account.try_acquire(32 * kPageSize);
  EXPECT_EQ(second.bytes().data(), memory);
  EXPECT_EQ(second.bytes().back(), std::byte{0x5a});
}

/// The naive model of one account: a number and a queue.
class Model {
 public:
  explicit Model(std::size_t pages) : free_(pages) {}
  void ask(int name, std::size_t pages) {
    line_.push_back({name, pages});
    serve();
  }
  void release(std::size_t pages) {
    free_ += pages;
    serve();
  }
  void cancel(int name) {
    std::erase_if(line_, [&](const Entry& entry) { return entry.name == name; });
    serve();
  }
  std::vector<int> served;

 private:
  struct Entry {
    int name;
    std::size_t pages;
  };
  void serve() {
    while (!line_.empty() && line_.front().pages <= free_) {
      free_ -= line_.front().pages;
      served.push_back(line_.front().name);
      line_.pop_front();
    }
  }
  std::size_t free_;
  std::deque<Entry> line_;
};

TEST_F(BounceAccountTest, RandomSchedulesMatchTheNaiveModel) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    std::mt19937_64 random(seed);
    const std::size_t pages = 1 + random() % 24;
    BounceAccount& account = make(pages);
    Model model(pages);
    served_.clear();
    waiters_.clear();
    std::deque<task::StopSource> stops;
    std::vector<std::size_t> sizes;
    const auto settle_one = [&](std::size_t index) {
      if (waiters_[index].has_buffer() && waiters_[index].buffer().size() != 0) {
        const std::size_t size = waiters_[index].buffer().size();
        waiters_[index].release();
        model.release((size + kPageSize - 1) / kPageSize);
      } else if (waiters_[index].is_waiting()) {
        stops[index].request_stop();
        model.cancel(static_cast<int>(index));
      }
    };
    for (int round = 0; round < 200; ++round) {
      if (random() % 2 == 0) {
        const auto name = static_cast<int>(waiters_.size());
        const std::size_t size = 1 + random() % (pages * kPageSize);
        sizes.push_back(size);
        waiter(name).start(scope_, account, size, {.token = stops.emplace_back().token()});
        model.ask(name, (size + kPageSize - 1) / kPageSize);
      } else if (!waiters_.empty()) {
        settle_one(random() % waiters_.size());
      }
      ASSERT_EQ(served_, model.served) << "seed " << seed << ", round " << round;
    }
    for (std::size_t index = 0; index < waiters_.size(); ++index) settle_one(index);
    for (std::size_t index = 0; index < waiters_.size(); ++index) settle_one(index);
    ASSERT_EQ(account.held(), 0u);
  }
}

}  // namespace
}  // namespace guestio::buf
