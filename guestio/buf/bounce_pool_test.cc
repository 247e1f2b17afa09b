// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "guestio/buf/bounce_cache.h"
#include "testing/rounds.h"

namespace guestio::buf {
namespace {

constexpr std::size_t kSlabPages = BouncePool::kSlabBytes / kPageSize;
constexpr ByteCount kNothing(0);
constexpr ByteCount kMuch(std::uint64_t{64} << 20);

TEST(BouncePool, AllocatesAdjacentPagesSlabBySlab) {
  BouncePool pool(kMuch);
  const BounceBlock first = *pool.allocate(10);
  const BounceBlock second = *pool.allocate(kSlabPages - 10);
  EXPECT_EQ(second.data, first.data + 10 * kPageSize);
  EXPECT_EQ(pool.mapped_bytes(), BouncePool::kSlabBytes);
  const BounceBlock third = *pool.allocate(1);
  EXPECT_EQ(pool.mapped_bytes(), 2 * BouncePool::kSlabBytes);
  for (const BounceBlock& block : {first, second, third}) pool.release(block);
}

TEST(BouncePool, AllocatesFirstFit) {
  BouncePool pool(kMuch);
  std::vector<BounceBlock> blocks;
  for (const std::size_t pages : {60u, 3u, 10u, 64u, 5u}) blocks.push_back(*pool.allocate(pages));
  pool.release(blocks[1]);
  pool.release(blocks[3]);
  EXPECT_EQ(pool.allocate(4)->data, blocks[3].data);
  EXPECT_EQ(pool.allocate(3)->data, blocks[1].data);
  EXPECT_EQ(pool.allocate(60)->data, blocks[3].data + 4 * kPageSize);
  for (const std::size_t kept : {0u, 2u, 4u}) pool.release(blocks[kept]);
  pool.release(blocks[1]);
  pool.release(blocks[3]);
}

TEST(BouncePool, BlocksLargerThanASlabHaveTheirOwnMapping) {
  BouncePool pool(kNothing);
  const BounceBlock block = *pool.allocate(kSlabPages + 1);
  EXPECT_EQ(pool.mapped_bytes(), 2 * BouncePool::kSlabBytes);
  std::memset(block.data, 1, block.pages * kPageSize);
  pool.release(block);
  EXPECT_EQ(pool.mapped_bytes(), 0u);
}

TEST(BouncePool, ASmallBlockNeverKeepsTheMemoryOfALargeOne) {
  BouncePool pool(kNothing);
  const BounceBlock large = *pool.allocate(4 * kSlabPages);
  pool.release(large);
  EXPECT_EQ(pool.mapped_bytes(), 0u);
  const BounceBlock again = *pool.allocate(4 * kSlabPages);
  const BounceBlock small = *pool.allocate(1);
  pool.release(again);
  EXPECT_EQ(pool.mapped_bytes(), BouncePool::kSlabBytes);
  pool.release(small);
}

TEST(BouncePool, ImpossibleSizesAreErrors) {
  BouncePool pool(kNothing);
  EXPECT_EQ(pool.allocate(BouncePool::kMaxPages + 1).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(pool.allocate(~std::size_t{0}).error().kind, ErrorKind::kTooLarge);
}

TEST(BouncePool, KeepsIdleSlabsUpToItsLimit) {
  BouncePool pool{ByteCount(BouncePool::kSlabBytes)};
  const BounceBlock first = *pool.allocate(kSlabPages);
  const BounceBlock second = *pool.allocate(kSlabPages);
  pool.release(first);
  EXPECT_EQ(pool.mapped_bytes(), 2 * BouncePool::kSlabBytes);
  pool.release(second);
  EXPECT_EQ(pool.mapped_bytes(), BouncePool::kSlabBytes);
}

TEST(BouncePool, AKeptSlabStaysMappedWhileIdle) {
  BouncePool pool(kNothing);
  const BounceBlock kept = *pool.allocate(3);
  const BounceBlock other = *pool.allocate(kSlabPages);
  const auto slab = pool.keep_slab(kept.data + kPageSize);
  EXPECT_EQ(slab.data(), kept.data);
  EXPECT_EQ(slab.size(), BouncePool::kSlabBytes);
  pool.release(kept);
  pool.release(other);
  EXPECT_EQ(pool.mapped_bytes(), BouncePool::kSlabBytes);
  const BounceBlock again = *pool.allocate(1);
  EXPECT_EQ(again.data, kept.data);
  pool.release(again);
}

TEST(BouncePool, ReservedSlabsServeLaterRequests) {
  BouncePool pool(kMuch);
  ASSERT_TRUE(pool.reserve(ByteCount(5 << 20)));
  EXPECT_EQ(pool.mapped_bytes(), std::size_t{6} << 20);
  pool.release(*pool.allocate(100));
  EXPECT_EQ(pool.mapped_bytes(), std::size_t{6} << 20);
}

TEST(BouncePool, RandomBlocksNeverOverlapAndAreAllReleased) {
  BouncePool pool(kNothing);
  std::mt19937_64 random(3);
  struct Held {
    BounceBlock block;
    std::byte mark;
  };
  std::vector<Held> held;
  const auto check_and_release = [&](std::size_t index) {
    const Held& one = held[index];
    for (std::size_t page = 0; page < one.block.pages; ++page) {
      ASSERT_EQ(one.block.data[page * kPageSize], one.mark);
      ASSERT_EQ(one.block.data[page * kPageSize + kPageSize - 1], one.mark);
    }
    pool.release(one.block);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
  };
  for (int round = 0; round < single_threaded_rounds(20000); ++round) {
    if (held.size() < 40 && random() % 2 == 0) {
      const BounceBlock block = *pool.allocate(1 + random() % (random() % 8 == 0 ? 700 : 70));
      const auto mark = static_cast<std::byte>(round);
      for (std::size_t page = 0; page < block.pages; ++page) {
        block.data[page * kPageSize] = mark;
        block.data[page * kPageSize + kPageSize - 1] = mark;
      }
      held.push_back({block, mark});
    } else if (!held.empty()) {
      check_and_release(random() % held.size());
    }
  }
  while (!held.empty()) check_and_release(held.size() - 1);
  EXPECT_EQ(pool.mapped_bytes(), 0u);
}

TEST(BouncePoolDeathTest, ReleasingABlockTwiceIsABug) {
  BouncePool pool(kMuch);
  const BounceBlock block = *pool.allocate(2);
  pool.release(block);
  EXPECT_DEATH(pool.release(block), "allocated and released once");
}

TEST(BounceCache, RoundsUpByAtMostAnEighth) {
  std::set<std::size_t> classes;
  for (std::size_t pages = 1; pages <= BounceCache::kMaxCached; ++pages) {
    const std::size_t index = BounceCache::class_of(pages);
    const std::size_t rounded = BounceCache::pages_of(index);
    classes.insert(index);
    ASSERT_GE(rounded, pages);
    ASSERT_LE(8 * (rounded - pages), pages) << pages;
    ASSERT_EQ(BounceCache::class_of(rounded), index) << pages;
  }
  EXPECT_EQ(classes.size(), 56u);
  EXPECT_EQ(*classes.rbegin(), 55u);
}

TEST(BounceCache, ReusesTheLastReleasedBlockOfTheSize) {
  BouncePool pool(kMuch);
  BounceCache cache(pool, kMuch);
  const BounceBlock one = *cache.allocate(32);
  const BounceBlock other = *cache.allocate(31);
  const BounceBlock small = *cache.allocate(1);
  cache.release(one);
  cache.release(other);
  cache.release(small);
  EXPECT_EQ(cache.allocate(32)->data, other.data);
  EXPECT_EQ(cache.allocate(1)->data, small.data);
  cache.release(other);
  cache.release(small);
}

TEST(BounceCache, ReturnsAllBlocksAboveItsLimit) {
  BouncePool pool(kNothing);
  BounceCache cache(pool, ByteCount(10 * kPageSize));
  const BounceBlock large = *cache.allocate(8);
  const BounceBlock small = *cache.allocate(3);
  const BounceBlock huge = *cache.allocate(11);
  cache.release(large);
  cache.release(small);
  cache.release(huge);
  EXPECT_EQ(cache.allocate(3)->data, small.data);
  pool.release(small);
  EXPECT_EQ(pool.mapped_bytes(), 0u);
}

}  // namespace
}  // namespace guestio::buf
