// SPDX-License-Identifier: MIT
#include "apps/guestio-load/operation_source.h"

#include <gtest/gtest.h>

#include <map>

namespace guestio::load {
namespace {

using Draw = OperationSource::Draw;

struct OperationSourceTest : testing::Test {
  void release(const Operation& operation) {
    for (const auto& extent : operation.extents) model.release(extent, operation.access());
  }
  /// Draws all operations, one at a time. Returns the number of each kind.
  std::map<OperationKind, int> draw_all(RandomSource& source) {
    std::map<OperationKind, int> count;
    Operation operation;
    while (source.draw(operation, engine) == Draw::kOperation) {
      ++count[operation.kind];
      for (const auto& extent : operation.extents) {
        EXPECT_GT(extent.count, 0u);
        EXPECT_LE(extent.first + extent.count, model.blocks());
      }
      release(operation);
    }
    return count;
  }

  DiskModel model{{FileOffset(0), ByteCount(512'000)}, 512};
  std::mt19937_64 engine{1};
};

TEST_F(OperationSourceTest, ASweepCoversTheRegionOnceSequentially) {
  SweepSource source(model, OperationKind::kWrite, 64);
  Operation operation;
  std::uint64_t next = 0;
  while (source.draw(operation, engine) == Draw::kOperation) {
    ASSERT_EQ(operation.extents.size(), 1u);
    EXPECT_EQ(operation.extents[0].first, next);
    next += operation.extents[0].count;
    release(operation);
  }
  EXPECT_EQ(next, 1000u);
}

TEST_F(OperationSourceTest, DrawsTheRequestedNumberOfOperationsOfAllSupportedKinds) {
  RandomSource source(model,
                      {.write = true,
                       .flush = true,
                       .discard = {.segments = 4, .blocks = 10},
                       .write_zeroes = {.segments = 1, .blocks = 10},
                       .max_blocks = 100},
                      5000);
  const auto count = draw_all(source);
  EXPECT_EQ(count.size(), kOperationKinds);
  int all = 0;
  for (const auto& [kind, number] : count) all += number;
  EXPECT_EQ(all, 5000);
}

TEST_F(OperationSourceTest, AReadOnlyDiskIsOnlyRead) {
  RandomSource source(model, {.flush = true, .discard = {.segments = 1, .blocks = 1}}, 1000);
  const auto count = draw_all(source);
  EXPECT_EQ(count.size(), 3u);
  EXPECT_TRUE(count.contains(OperationKind::kRead));
  EXPECT_TRUE(count.contains(OperationKind::kFlush));
  EXPECT_TRUE(count.contains(OperationKind::kGetId));
}

TEST_F(OperationSourceTest, ReservedExtentsAreNeverDrawn) {
  RandomSource source(model, {.write = true, .max_blocks = 1000}, 1000);
  // Nothing is released: the region fills up.
  ASSERT_TRUE(model.try_reserve({0, 1000}, DiskModel::Access::kWrite));
  Operation operation;
  int busy = 0;
  for (int i = 0; i < 100; ++i) {
    const Draw draw = source.draw(operation, engine);
    EXPECT_TRUE(draw == Draw::kBusy || operation.extents.empty());
    busy += draw == Draw::kBusy ? 1 : 0;
  }
  EXPECT_GT(busy, 50);
}

TEST_F(OperationSourceTest, DescribesOperations) {
  EXPECT_EQ(describe({.kind = OperationKind::kFlush}, model), "flush");
  EXPECT_EQ(describe({.kind = OperationKind::kRead, .extents = {{2, 4}}}, model),
            "read of 2048 bytes at offset 1024");
  EXPECT_EQ(describe({.kind = OperationKind::kDiscard, .extents = {{0, 1}, {2, 1}}}, model),
            "discard of 512 bytes at offset 0, 512 bytes at offset 1024");
}

}  // namespace
}  // namespace guestio::load
