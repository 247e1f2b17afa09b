// SPDX-License-Identifier: MIT
#include "apps/guestio-load/disk_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

namespace guestio::load {
namespace {

using Access = DiskModel::Access;
using Extent = DiskModel::Extent;

constexpr std::size_t kBlock = 512;

std::vector<std::byte> bytes(std::size_t count, int value) {
  return std::vector(count, static_cast<std::byte>(value));
}

struct DiskModelTest : testing::Test {
  DiskModel model{{FileOffset(4096), ByteCount(64 * kBlock)}, kBlock};
};

TEST_F(DiskModelTest, UnwrittenBlocksMatchAnything) {
  EXPECT_FALSE(model.compare({0, 64}, bytes(64 * kBlock, 9)).has_value());
}

TEST_F(DiskModelTest, WrittenBlocksAreCompared) {
  model.set({2, 2}, bytes(2 * kBlock, 7));
  auto found = bytes(8 * kBlock, 7);
  EXPECT_FALSE(model.compare({0, 8}, found).has_value());
  found[3 * kBlock + 5] = std::byte{8};
  const auto mismatch = model.compare({0, 8}, found);
  ASSERT_TRUE(mismatch.has_value());
  EXPECT_EQ(mismatch->offset, FileOffset(4096 + 3 * kBlock + 5));
  EXPECT_EQ(mismatch->index, 3 * kBlock + 5);
  EXPECT_EQ(mismatch->expected, std::byte{7});
  EXPECT_EQ(mismatch->found, std::byte{8});
}

TEST_F(DiskModelTest, DiscardedBlocksAreUnknownUntilTheNextWrite) {
  model.set({0, 4}, bytes(4 * kBlock, 7));
  model.forget({1, 2});
  auto found = bytes(4 * kBlock, 7);
  std::fill(found.begin() + kBlock, found.begin() + 3 * kBlock, std::byte{0});
  EXPECT_FALSE(model.compare({0, 4}, found).has_value());
  model.set({2, 1}, bytes(kBlock, 5));
  EXPECT_EQ(model.compare({0, 4}, found)->offset, FileOffset(4096 + 2 * kBlock));
}

TEST_F(DiskModelTest, ZeroedBlocksAreKnown) {
  model.set_zero({10, 1});
  EXPECT_FALSE(model.compare({10, 1}, bytes(kBlock, 0)).has_value());
  EXPECT_TRUE(model.compare({10, 1}, bytes(kBlock, 1)).has_value());
}

TEST_F(DiskModelTest, ReadersShareAndWritersExclude) {
  ASSERT_TRUE(model.try_reserve({0, 8}, Access::kRead));
  EXPECT_TRUE(model.try_reserve({4, 8}, Access::kRead));
  EXPECT_FALSE(model.try_reserve({7, 1}, Access::kWrite));
  EXPECT_TRUE(model.try_reserve({12, 4}, Access::kWrite));
  EXPECT_FALSE(model.try_reserve({15, 2}, Access::kRead));
  EXPECT_FALSE(model.try_reserve({15, 2}, Access::kWrite));
  EXPECT_TRUE(model.try_reserve({16, 1}, Access::kWrite)) << "a failed attempt reserves nothing";
  model.release({0, 8}, Access::kRead);
  EXPECT_TRUE(model.try_reserve({0, 4}, Access::kWrite));
  EXPECT_FALSE(model.try_reserve({4, 1}, Access::kWrite)) << "one reader left";
  model.release({4, 8}, Access::kRead);
  EXPECT_TRUE(model.try_reserve({4, 8}, Access::kWrite));
}

TEST_F(DiskModelTest, ReservedBlocksNeedNoFurtherLock) {
  const auto writer = [this](std::uint64_t first, int value) {
    for (int i = 0; i < 2000; ++i) {
      const Extent extent{(first + static_cast<std::uint64_t>(i)) % 60, 4};
      if (!model.try_reserve(extent, Access::kWrite)) continue;
      model.set(extent, bytes(4 * kBlock, value));
      EXPECT_FALSE(model.compare(extent, bytes(4 * kBlock, value)).has_value());
      model.release(extent, Access::kWrite);
    }
  };
  std::thread other([&] { writer(30, 1); });
  writer(0, 2);
  other.join();
}

}  // namespace
}  // namespace guestio::load
