// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "guestio/task/scope.h"
#include "guestio/task/task.h"

namespace guestio::buf {
namespace {

using testing::ElementsAre;

constexpr std::size_t kUnit = BouncePool::kUnit;

std::unique_ptr<BouncePool> make_pool(std::size_t units) {
  auto pool = BouncePool::create(ByteCount(units * kUnit));
  EXPECT_TRUE(pool.has_value());
  return std::move(*pool);
}

std::vector<std::size_t> slice_sizes(const BounceGrant& grant, std::size_t offset,
                                     std::size_t size) {
  std::vector<std::size_t> sizes;
  grant.for_each_slice(offset, size,
                       [&](std::span<std::byte> slice) { sizes.push_back(slice.size()); });
  return sizes;
}

/// Waits for bounce memory and keeps it.
struct Taker {
  int name;
  std::size_t size;
  BounceGrant grant;
};

task::Task<> take(BouncePool& pool, Taker& taker, std::vector<int>& order) {
  auto acquire = pool.acquire(taker.size);
  auto grant = co_await acquire;
  EXPECT_TRUE(grant.has_value());
  taker.grant = std::move(*grant);
  order.push_back(taker.name);
}

TEST(BouncePool, SizeZeroIsGrantedEvenWhenNothingIsLeft) {
  const auto pool = make_pool(1);
  const auto all = pool->try_acquire(kUnit);
  ASSERT_TRUE(all.has_value());
  const auto nothing = pool->try_acquire(0);
  ASSERT_TRUE(nothing.has_value());
  EXPECT_EQ(nothing->size(), 0u);
}

TEST(BouncePool, MoreThanTheWholePoolFailsAtOnce) {
  const auto pool = make_pool(2);
  const auto grant = pool->try_acquire(2 * kUnit + 1);
  ASSERT_FALSE(grant.has_value());
  EXPECT_EQ(grant.error().kind, ErrorKind::kTooLarge);
}

TEST(BouncePool, AFreshGrantIsOneRun) {
  const auto pool = make_pool(100);
  const auto grant = pool->try_acquire(70 * kUnit);
  ASSERT_TRUE(grant.has_value());
  EXPECT_THAT(slice_sizes(*grant, 0, 70 * kUnit), ElementsAre(70 * kUnit));
  EXPECT_THAT(slice_sizes(*grant, 100, kUnit), ElementsAre(kUnit));
}

TEST(BouncePool, AScatteredGrantIsSlicedAtItsGaps) {
  const auto pool = make_pool(4);
  auto first = pool->try_acquire(kUnit);
  const auto second = pool->try_acquire(kUnit);
  ASSERT_TRUE(first && second);
  *first = BounceGrant();
  const auto grant = pool->try_acquire(3 * kUnit);
  ASSERT_TRUE(grant.has_value());
  EXPECT_THAT(slice_sizes(*grant, 0, 3 * kUnit), ElementsAre(kUnit, 2 * kUnit));
  EXPECT_THAT(slice_sizes(*grant, 512, 2 * kUnit), ElementsAre(kUnit - 512, kUnit + 512));
}

TEST(BouncePool, AGrantGivesBackWhatItTook) {
  const auto pool = make_pool(8);
  {
    auto grant = pool->try_acquire(3 * kUnit - 1);
    ASSERT_TRUE(grant.has_value());
    EXPECT_EQ(pool->free_bytes(), 5 * kUnit);
    BounceGrant other = std::move(*grant);
    EXPECT_EQ(pool->free_bytes(), 5 * kUnit);
  }
  EXPECT_EQ(pool->free_bytes(), 8 * kUnit);
  EXPECT_EQ(pool->high_water_bytes(), 3 * kUnit);
}

TEST(BouncePool, WaitersAreServedInOrderAndNobodyOvertakes) {
  const auto pool = make_pool(4);
  auto all = pool->try_acquire(4 * kUnit);
  ASSERT_TRUE(all.has_value());
  std::vector<int> order;
  Taker big{1, 3 * kUnit, {}};
  Taker small{2, kUnit, {}};
  task::Scope scope;
  scope.spawn(take(*pool, big, order));
  scope.spawn(take(*pool, small, order));
  EXPECT_EQ(pool->try_acquire(kUnit).error().kind, ErrorKind::kBusy);
  *all = BounceGrant();
  EXPECT_THAT(order, ElementsAre(1, 2));
  EXPECT_EQ(pool->waits(), 2u);
}

TEST(BouncePool, AReleaseWakesOnlyWhoFits) {
  const auto pool = make_pool(2);
  auto one = pool->try_acquire(kUnit);
  auto other = pool->try_acquire(kUnit);
  ASSERT_TRUE(one && other);
  std::vector<int> order;
  Taker both{1, 2 * kUnit, {}};
  task::Scope scope;
  scope.spawn(take(*pool, both, order));
  *one = BounceGrant();
  EXPECT_TRUE(order.empty());
  *other = BounceGrant();
  EXPECT_THAT(order, ElementsAre(1));
}

TEST(BouncePool, AWaiterThatIsDestroyedLeavesNoTrace) {
  const auto pool = make_pool(1);
  auto all = pool->try_acquire(kUnit);
  ASSERT_TRUE(all.has_value());
  {
    auto abandoned = pool->acquire(kUnit);
    ASSERT_FALSE(abandoned.await_ready());
    abandoned.await_suspend(std::noop_coroutine());
  }
  *all = BounceGrant();
  EXPECT_EQ(pool->free_bytes(), kUnit);
}

TEST(BouncePool, RandomGrantsNeverShareBytesAndAddUp) {
  const auto pool = make_pool(130);
  std::mt19937_64 random(1);
  struct Held {
    BounceGrant grant;
    std::byte mark;
  };
  std::deque<Held> held;
  for (int round = 0; round < 20000; ++round) {
    auto grant = pool->try_acquire(random() % (20 * kUnit));
    const auto mark = static_cast<std::byte>(round);
    if (grant) {
      grant->for_each_slice(0, grant->size(), [&](std::span<std::byte> slice) {
        std::memset(slice.data(), static_cast<int>(mark), slice.size());
      });
      held.push_back({std::move(*grant), mark});
    }
    if (held.size() > 12 || (!grant && !held.empty())) {
      const std::size_t victim = random() % held.size();
      std::size_t seen = 0;
      held[victim].grant.for_each_slice(0, held[victim].grant.size(),
                                        [&](std::span<std::byte> slice) {
                                          seen += slice.size();
                                          ASSERT_EQ(slice.front(), held[victim].mark);
                                          ASSERT_EQ(slice.back(), held[victim].mark);
                                        });
      ASSERT_EQ(seen, held[victim].grant.size());
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  }
  held.clear();
  EXPECT_EQ(pool->free_bytes(), pool->limit());
}

}  // namespace
}  // namespace guestio::buf
