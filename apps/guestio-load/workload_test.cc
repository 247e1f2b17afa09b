// SPDX-License-Identifier: MIT
#include "apps/guestio-load/workload.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace guestio::load {
namespace {

using virtio::blk::RequestType;

constexpr std::uint64_t kBlockBytes = 4096;
constexpr DiskRegion kRegion{FileOffset(1 << 20), ByteCount(32768)};

RunArguments make(ReadWrite rw, std::uint32_t jobs = 1) {
  RunArguments arguments;
  arguments.rw = rw;
  arguments.jobs = jobs;
  return arguments;
}

TEST(Workload, SequentialWrapsAroundInTheRegion) {
  Workload workload(make(ReadWrite::kRead), kRegion, 0);
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < 8; ++i) {
      const auto next = workload.next();
      EXPECT_EQ(next.type, RequestType::kIn);
      EXPECT_EQ(next.offset, FileOffset((1 << 20) + i * 4096));
    }
  }
}

TEST(Workload, SequentialJobsStartApart) {
  Workload second(make(ReadWrite::kWrite, 2), kRegion, 1);
  const auto next = second.next();
  EXPECT_EQ(next.type, RequestType::kOut);
  EXPECT_EQ(next.offset, FileOffset((1 << 20) + 4 * 4096));
}

TEST(Workload, RandomCoversExactlyTheBlocksOfTheRegion) {
  Workload workload(make(ReadWrite::kRandWrite), kRegion, 0);
  std::set<FileOffset> seen;
  for (int i = 0; i < 500; ++i) seen.insert(workload.next().offset);
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(*seen.begin(), kRegion.start);
  EXPECT_EQ(*seen.rbegin(), kRegion.start.plus_unchecked(7 * kBlockBytes));
}

TEST(Workload, AMixHasTheRequestedShareOfReads) {
  auto arguments = make(ReadWrite::kRandRw);
  arguments.read_percent = 70;
  Workload workload(arguments, kRegion, 0);
  std::map<RequestType, int> count;
  for (int i = 0; i < 10000; ++i) ++count[workload.next().type];
  EXPECT_NEAR(count[RequestType::kIn], 7000, 200);
}

TEST(Workload, TheSameSeedGivesTheSameOrder) {
  Workload first(make(ReadWrite::kRandRead), kRegion, 0);
  Workload same(make(ReadWrite::kRandRead), kRegion, 0);
  Workload other(make(ReadWrite::kRandRead), kRegion, 1);
  int differences = 0;
  for (int i = 0; i < 100; ++i) {
    const auto offset = first.next().offset;
    EXPECT_EQ(offset, same.next().offset);
    differences += offset != other.next().offset ? 1 : 0;
  }
  EXPECT_GT(differences, 50);
}

TEST(RegionOf, StopsAtTheEndOfTheDiskInWholeBlocks) {
  const ByteCount block(4096);
  const auto region = region_of(FileOffset(4096), std::nullopt, ByteCount(4096 * 3 + 512), block);
  ASSERT_TRUE(region.has_value());
  EXPECT_EQ(region->size, ByteCount(8192));
  EXPECT_EQ(
      region_of(FileOffset(0), std::nullopt, ByteCount(1 << 20), block, ByteCount(8192))->size,
      ByteCount(8192));
  EXPECT_EQ(region_of(FileOffset(0), ByteCount(5000), ByteCount(1 << 20), block)->size,
            ByteCount(4096));
}

TEST(RegionOf, RejectsRegionsBeyondTheDisk) {
  const ByteCount disk(1 << 20);
  const ByteCount block(4096);
  EXPECT_EQ(region_of(FileOffset(1 << 20), std::nullopt, disk, block).error().kind,
            ErrorKind::kOutOfRange);
  EXPECT_EQ(region_of(FileOffset(4096), ByteCount(1 << 20), disk, block).error().kind,
            ErrorKind::kOutOfRange);
  EXPECT_EQ(region_of(FileOffset((1 << 20) - 512), std::nullopt, disk, block).error().kind,
            ErrorKind::kTooLarge);
}

}  // namespace
}  // namespace guestio::load
