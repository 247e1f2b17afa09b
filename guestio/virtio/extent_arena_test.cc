// SPDX-License-Identifier: MIT
#include "guestio/virtio/extent_arena.h"

#include <gtest/gtest.h>

#include <vector>

namespace guestio::virtio {
namespace {

TEST(ExtentArena, ReturnsTheSmallestSufficientBlock) {
  ExtentArena arena(1024);
  const auto medium = arena.acquire(17);
  const auto huge = arena.acquire(129);
  EXPECT_EQ(medium.size(), ExtentArena::kMediumExtents);
  EXPECT_EQ(huge.size(), 1024u);
  EXPECT_EQ(arena.blocks_in_use(), 2u);
  arena.release(medium);
  arena.release(huge);
  EXPECT_EQ(arena.blocks_in_use(), 0u);
}

TEST(ExtentArena, RecyclesAReleasedBlock) {
  ExtentArena arena(1024);
  const auto first = arena.acquire(17);
  arena.release(first);
  const auto second = arena.acquire(17);
  EXPECT_EQ(second.data(), first.data());
  arena.release(second);
}

TEST(ExtentArena, IsBoundedAndReusesReleasedBlocks) {
  ExtentArena arena(1024);
  std::vector<ExtentArena::Block> popped;
  popped.reserve(ExtentArena::kHugeBlocks);
  for (std::size_t i = 0; i < ExtentArena::kHugeBlocks; ++i) popped.push_back(arena.acquire(1024));
  EXPECT_TRUE(arena.acquire(1024).empty());
  arena.release(popped.back());
  popped.back() = arena.acquire(1024);
  EXPECT_FALSE(popped.back().empty());
  for (const auto block : popped) arena.release(block);
}

TEST(ExtentArena, ShortQueuesNeedNoHugeBlocks) {
  ExtentArena arena(64);
  const auto block = arena.acquire(64);
  EXPECT_EQ(block.size(), ExtentArena::kMediumExtents);
  arena.release(block);
}

TEST(ExtentArenaDeathTest, ABlockInUseStopsTheProcess) {
  EXPECT_DEATH(
      {
        ExtentArena arena(64);
        (void)arena.acquire(17);
      },
      "chains to be cleared");
}

}  // namespace
}  // namespace guestio::virtio
