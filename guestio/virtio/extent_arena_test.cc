// SPDX-License-Identifier: MIT
#include "guestio/virtio/extent_arena.h"

#include <gtest/gtest.h>

#include <vector>

namespace guestio::virtio {
namespace {

TEST(ExtentArena, GivesTheSmallestBlockThatHoldsTheExtents) {
  ExtentArena arena(1024);
  const auto medium = arena.acquire(17);
  const auto huge = arena.acquire(129);
  EXPECT_EQ(medium.size(), ExtentArena::kMediumExtents);
  EXPECT_EQ(huge.size(), 1024u);
  EXPECT_EQ(arena.blocks_out(), 2u);
  arena.release(medium);
  arena.release(huge);
  EXPECT_EQ(arena.blocks_out(), 0u);
}

TEST(ExtentArena, RecyclesABlockThatCameBack) {
  ExtentArena arena(1024);
  const auto first = arena.acquire(17);
  arena.release(first);
  const auto second = arena.acquire(17);
  EXPECT_EQ(second.data(), first.data());
  arena.release(second);
}

TEST(ExtentArena, IsBoundedAndGivesAgainWhenABlockIsBack) {
  ExtentArena arena(1024);
  std::vector<ExtentArena::Block> taken;
  taken.reserve(ExtentArena::kHugeBlocks);
  for (std::size_t i = 0; i < ExtentArena::kHugeBlocks; ++i) taken.push_back(arena.acquire(1024));
  EXPECT_TRUE(arena.acquire(1024).empty());
  arena.release(taken.back());
  taken.back() = arena.acquire(1024);
  EXPECT_FALSE(taken.back().empty());
  for (const auto block : taken) arena.release(block);
}

TEST(ExtentArena, ShortQueuesNeedNoHugeBlocks) {
  ExtentArena arena(64);
  const auto block = arena.acquire(64);
  EXPECT_EQ(block.size(), ExtentArena::kMediumExtents);
  arena.release(block);
}

TEST(ExtentArenaDeathTest, ABlockThatIsStillOutStopsTheProcess) {
  EXPECT_DEATH(
      {
        ExtentArena arena(64);
        (void)arena.acquire(17);
      },
      "every chain to be gone");
}

}  // namespace
}  // namespace guestio::virtio
