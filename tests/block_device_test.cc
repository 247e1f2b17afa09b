// SPDX-License-Identifier: MIT
// The virtio-blk device as a guest sees it.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

namespace vblk = virtio::blk;
using Type = testing::BlkGuest::Type;

std::vector<std::byte> make_pattern(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

class BlockDeviceTest : public BackendTest {
 protected:
  /// Reads the image through a descriptor of its own.
  std::vector<std::byte> image_bytes(std::uint64_t offset, std::size_t size) {
    const UniqueFd fd(::open(image_.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<std::byte> bytes(size);
    EXPECT_EQ(::pread(fd.get(), bytes.data(), size, static_cast<off_t>(offset)),
              static_cast<ssize_t>(size));
    return bytes;
  }
};

TEST_F(BlockDeviceTest, WritesReachTheImageAndAreReadBack) {
  start();
  const auto guest = connect();
  const auto pattern = make_pattern(65536, 1);
  const auto written = guest->write(16, pattern);
  EXPECT_EQ(written.status, 0);
  EXPECT_EQ(written.used_length, 1u);
  EXPECT_EQ(guest->flush().status, 0);
  EXPECT_EQ(image_bytes(8192, pattern.size()), pattern);
  const auto read = guest->read(16, pattern.size());
  EXPECT_EQ(read.status, 0);
  EXPECT_EQ(read.used_length, pattern.size() + 1);
  EXPECT_EQ(read.data, pattern);
}

TEST_F(BlockDeviceTest, DataMayBeMisaligned) {
  start();
  const auto guest = connect();
  for (const std::size_t misalignment : {1U, 3U, 511U, 512U, 513U, 2048U, 4095U}) {
    const auto pattern = make_pattern(5 * 4096 + 512, misalignment);
    EXPECT_EQ(guest->perform(Type::kOut, 7, pattern, 0, misalignment).status, 0) << misalignment;
    EXPECT_EQ(guest->perform(Type::kIn, 7, {}, pattern.size(), misalignment + 5).data, pattern)
        << misalignment;
  }
}

TEST_F(BlockDeviceTest, TheMinimumOfBounceMemoryServesLargeMisalignedRequests) {
  start({"--bounce-limit", "64k"});
  const auto guest = connect();
  const auto pattern = make_pattern(1 << 20, 9);
  EXPECT_EQ(guest->perform(Type::kOut, 0, pattern, 0, 1).status, 0);
  EXPECT_EQ(guest->perform(Type::kIn, 0, {}, pattern.size(), 3).data, pattern);
}

TEST_F(BlockDeviceTest, ConfigSpaceMatchesTheOptions) {
  start({"--num-queues", "3"});
  const auto guest = connect();
  const vblk::Config config = guest->config();
  EXPECT_EQ(config.capacity, kImageBytes / 512);
  EXPECT_EQ(config.blk_size, 512u);
  EXPECT_EQ(config.num_queues, 3u);
  EXPECT_EQ(config.writeback, 1u);
  EXPECT_GT(config.max_discard_sectors, 0u);
  EXPECT_GT(config.max_discard_seg, 0u);
  EXPECT_GT(config.discard_sector_alignment, 0u);
  EXPECT_GT(config.max_write_zeroes_sectors, 0u);
  EXPECT_EQ(guest->frontend().negotiated().queues, 3u);
}

TEST_F(BlockDeviceTest, AnyPartOfConfigSpaceIsReadable) {
  start();
  const auto guest = connect();
  const vblk::Config config = guest->config();
  const auto whole = std::as_bytes(std::span(&config, 1));
  for (std::uint32_t offset = 0; offset <= whole.size(); offset += 7) {
    for (std::size_t size = 0; size <= whole.size() - offset; size += 5) {
      std::vector<std::byte> part(size);
      ASSERT_TRUE(guest->frontend().get_config(offset, part)) << offset << " " << size;
      ASSERT_TRUE(std::ranges::equal(part, whole.subspan(offset, size)));
    }
  }
}

TEST_F(BlockDeviceTest, TheSerialIsTheGivenOneOrAStableDefault) {
  start({"--serial", "disk-0042"});
  const auto chosen = connect()->perform(Type::kGetId, 0, {}, 20);
  EXPECT_EQ(chosen.status, 0);
  EXPECT_EQ(chosen.used_length, 21u);
  std::vector<std::byte> expected(20);
  std::memcpy(expected.data(), "disk-0042", 9);
  EXPECT_EQ(chosen.data, expected);
  stop();
  start();
  const auto first = connect()->perform(Type::kGetId, 0, {}, 20).data;
  stop();
  start();
  EXPECT_EQ(connect()->perform(Type::kGetId, 0, {}, 20).data, first);
  EXPECT_EQ(std::memcmp(first.data(), "guestio-", 8), 0);
}

TEST_F(BlockDeviceTest, DiscardAndWriteZeroesAffectOnlyTheirRanges) {
  start({"--max-ranges", "2"});
  const auto guest = connect();
  const auto pattern = make_pattern(1 << 20, 4);
  ASSERT_EQ(guest->write(0, pattern).status, 0);
  const std::array zeroes = {vblk::RangeSegment{8, 16, 0},
                             vblk::RangeSegment{100, 1, vblk::kRangeUnmap}};
  EXPECT_EQ(guest->perform(Type::kWriteZeroes, 0, std::as_bytes(std::span(zeroes)), 0).status, 0);
  auto expected = pattern;
  constexpr std::ptrdiff_t kSector = 512;
  std::fill_n(expected.begin() + 8 * kSector, 16 * kSector, std::byte{0});
  std::fill_n(expected.begin() + 100 * kSector, kSector, std::byte{0});
  EXPECT_EQ(guest->read(0, pattern.size()).data, expected);
  const vblk::RangeSegment discard{1024, 1024, 0};
  EXPECT_EQ(guest->perform(Type::kDiscard, 0, std::as_bytes(std::span(&discard, 1)), 0).status, 0);
  EXPECT_EQ(guest->read(0, std::size_t{1024} * kSector).data,
            std::vector(expected.begin(), expected.begin() + 1024 * kSector));
}

TEST_F(BlockDeviceTest, Rule30FlushIgnoresItsSector) {
  start();
  const auto guest = connect();
  for (const std::uint64_t sector : {std::uint64_t{1}, kImageBytes / 512, ~std::uint64_t{0}}) {
    EXPECT_EQ(guest->perform(Type::kFlush, sector, {}, 0).status, 0) << sector;
  }
}

TEST_F(BlockDeviceTest, Rule34MoreRangesThanMaxSegAreRejectedWithoutEffect) {
  for (const std::uint32_t offered : {1U, 16U}) {
    start({"--max-ranges", std::to_string(offered)});
    const auto guest = connect();
    const vblk::Config config = guest->config();
    EXPECT_EQ(config.max_discard_seg, offered);
    EXPECT_EQ(config.max_write_zeroes_seg, offered);
    const auto pattern = make_pattern(512, 4);
    ASSERT_EQ(guest->write(0, pattern).status, 0);
    std::vector<vblk::RangeSegment> ranges(offered + 1, {0, 1, 0});
    EXPECT_EQ(guest->perform(Type::kWriteZeroes, 0, std::as_bytes(std::span(ranges)), 0).status, 2)
        << "unsupported, which QEMU's own tests ask for";
    EXPECT_EQ(guest->read(0, 512).data, pattern);
    ranges.pop_back();
    EXPECT_EQ(guest->perform(Type::kWriteZeroes, 0, std::as_bytes(std::span(ranges)), 0).status, 0);
    EXPECT_EQ(guest->read(0, 512).data, std::vector<std::byte>(512));
    stop();
  }
}

TEST_F(BlockDeviceTest, Rule36ReadsBeyondTheEndOfATruncatedImageFail) {
  start();
  const auto guest = connect();
  ASSERT_EQ(::truncate(image_.c_str(), kImageBytes / 2), 0);
  EXPECT_EQ(guest->read(kImageBytes / 1024, 4096).status, 1) << "beyond the end";
  EXPECT_EQ(guest->read(kImageBytes / 1024 - 8, 8192).status, 1) << "across the end";
  EXPECT_EQ(guest->read(kImageBytes / 1024 - 8, 4096).status, 0);
}

TEST_F(BlockDeviceTest, AnInvalidRangeRejectsTheWholeRequest) {
  start({"--max-ranges", "2"});
  const auto guest = connect();
  const auto pattern = make_pattern(8192, 4);
  ASSERT_EQ(guest->write(0, pattern).status, 0);
  const std::array ranges = {vblk::RangeSegment{0, 8, 0},
                             vblk::RangeSegment{kImageBytes / 512, 8, 0}};
  EXPECT_EQ(guest->perform(Type::kWriteZeroes, 0, std::as_bytes(std::span(ranges)), 0).status, 1);
  EXPECT_EQ(guest->read(0, pattern.size()).data, pattern);
}

TEST_F(BlockDeviceTest, AReadOnlyDiskRejectsAllModifyingRequests) {
  start({"--read-only"});
  const auto guest = connect();
  EXPECT_NE(guest->frontend().negotiated().features & vblk::kFeatureReadOnly, 0u);
  const vblk::RangeSegment range{0, 8, 0};
  const auto body = std::as_bytes(std::span(&range, 1));
  EXPECT_EQ(guest->write(0, make_pattern(512, 1)).status, 1);
  EXPECT_NE(guest->perform(Type::kDiscard, 0, body, 0).status, 0);
  EXPECT_NE(guest->perform(Type::kWriteZeroes, 0, body, 0).status, 0);
  EXPECT_NE(guest->perform(Type::kSecureErase, 0, body, 0).status, 0);
  EXPECT_EQ(guest->read(0, 512).status, 0);
  EXPECT_EQ(guest->flush().status, 0);
  EXPECT_EQ(image_bytes(0, 512), std::vector<std::byte>(512));
}

TEST_F(BlockDeviceTest, WritebackIsConfigurableAndPersistsAcrossConnections) {
  start();
  {
    const auto guest = connect();
    const std::byte off{0};
    ASSERT_TRUE(guest->frontend().set_config(offsetof(vblk::Config, writeback), std::span(&off, 1),
                                             vhost::kConfigWritable));
    EXPECT_EQ(guest->config().writeback, 0u);
    EXPECT_EQ(guest->write(0, make_pattern(4096, 1)).status, 0);
  }
  EXPECT_EQ(connect()->config().writeback, 0u);
}

TEST_F(BlockDeviceTest, QueuesRunConcurrentlyAndSomeMayStayUnused) {
  start({"--num-queues", "4"});
  const auto guest = connect({.queues = 3});
  for (std::uint32_t queue = 0; queue < 3; ++queue) {
    const auto pattern = make_pattern(4096, queue);
    const std::uint64_t sector = std::uint64_t{queue} * 8;
    EXPECT_EQ(guest->perform(Type::kOut, sector, pattern, 0, 0, queue).status, 0);
    EXPECT_EQ(guest->perform(Type::kIn, sector, {}, 4096, 0, (queue + 1) % 3).data, pattern);
  }
}

TEST_F(BlockDeviceTest, ARingResumesAtItsBase) {
  start();
  const auto guest = connect({.first_index = 65530});
  for (int i = 0; i < 10; ++i) ASSERT_EQ(guest->read(0, 512).status, 0);
  const auto base = guest->queue().stop(guest->frontend());
  ASSERT_TRUE(base.has_value());
  EXPECT_EQ(*base, (65530u + 10) & 0xffff);
  EXPECT_EQ(guest->frontend().get_vring_base(0), *base) << "also while the ring is stopped";
}

TEST_F(BlockDeviceTest, Rule13And14APackedRingResumesAtBothIndicesWithTheirWrapCounters) {
  start();
  const virtio::PackedPosition last{.index = 63, .wrap = false};
  const auto guest = connect({.features = ~std::uint64_t{0}, .first_index = last.to_word()});
  // A chain has three descriptors: the first request wraps around the end of the ring.
  for (int i = 0; i < 10; ++i) ASSERT_EQ(guest->read(0, 512).status, 0);
  const auto base = guest->queue().stop(guest->frontend());
  ASSERT_TRUE(base.has_value());
  const std::uint32_t place = virtio::PackedPosition{.index = 29, .wrap = true}.to_word();
  EXPECT_EQ(*base, place << 16 | place);
  EXPECT_EQ(guest->frontend().get_vring_base(0), *base) << "also while the ring is stopped";
  ASSERT_TRUE(guest->frontend().set_vring_base(0, *base));
  ASSERT_TRUE(guest->frontend().set_vring_kick(0, std::nullopt));
  for (int i = 0; i < 30; ++i) ASSERT_EQ(guest->read(0, 512).status, 0);
}

TEST_F(BlockDeviceTest, Rule20VringNumAndBaseAreCheckedByRingKind) {
  start();
  {
    const auto split = connect({.queues = 0});
    EXPECT_FALSE(split->frontend().set_vring_num(0, 100).has_value());
    EXPECT_FALSE(split->frontend().set_vring_base(0, 0x10000).has_value());
  }
  const auto packed = connect({.features = ~std::uint64_t{0}, .queues = 0});
  EXPECT_TRUE(packed->frontend().set_vring_num(0, 100).has_value());
  EXPECT_FALSE(packed->frontend().set_vring_num(0, 0).has_value());
  EXPECT_FALSE(packed->frontend().set_vring_num(0, 32769).has_value());
  EXPECT_TRUE(packed->frontend().set_vring_base(0, 0x80008000).has_value());
}

TEST_F(BlockDeviceTest, Rule20APackedRingWithABaseOutOfRangeDoesNotStart) {
  start();
  {
    const auto guest = connect({.features = ~std::uint64_t{0}});
    ASSERT_TRUE(guest->queue().stop(guest->frontend()));
    ASSERT_TRUE(guest->frontend().set_vring_base(0, 0x80008040));
    EXPECT_FALSE(guest->frontend().set_vring_kick(0, std::nullopt).has_value());
  }
  expect_alive();
}

TEST_F(BlockDeviceTest, ADisabledRingTakesNoChainUntilItIsEnabled) {
  start();
  const auto guest = connect();
  ASSERT_TRUE(guest->frontend().set_vring_enable(0, false));
  const auto memory = guest->scratch();
  const vblk::RequestHeader header{Type::kFlush, 0, 0};
  std::memcpy(memory.host, &header, sizeof header);
  const std::array chain = {
      virtio::DriverSegment{memory.gpa, 16, virtio::Direction::kReadable},
      virtio::DriverSegment{memory.gpa.plus_unchecked(64), 1, virtio::Direction::kWritable}};
  EXPECT_EQ(guest->send_chain(chain, 0, std::chrono::milliseconds(200)), std::nullopt);
  ASSERT_TRUE(guest->frontend().set_vring_enable(0, true));
  EXPECT_EQ(guest->wait_for_used(0, std::chrono::seconds(60)), 1u);
}

TEST_F(BlockDeviceTest, WithoutAKickDescriptorTheRingIsPolled) {
  start();
  const auto guest = connect();
  ASSERT_EQ(guest->read(0, 512).status, 0);
  const auto base = guest->queue().stop(guest->frontend());
  ASSERT_TRUE(base.has_value());
  ASSERT_TRUE(guest->frontend().set_vring_base(0, *base));
  ASSERT_TRUE(guest->frontend().set_vring_kick(0, std::nullopt));
  ASSERT_TRUE(guest->frontend().set_vring_enable(0, true));
  for (int round = 0; round < 20; ++round) EXPECT_EQ(guest->read(0, 512).status, 0);
  EXPECT_TRUE(guest->queue().stop(guest->frontend()));
}

TEST_F(BlockDeviceTest, SetMemTableWorksOnARunningRing) {
  start();
  const auto guest = connect();
  const auto region = guest->memory().region();
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(guest->frontend().set_mem_table(std::span(&region, 1)));
    ASSERT_EQ(guest->read(0, 65536).status, 0);
  }
}

TEST_F(BlockDeviceTest, DriversWithoutEventIndexAndIndirectDescriptorsAreServed) {
  start();
  const auto guest = connect({.features = virtio::kFeatureVersion1});
  const auto pattern = make_pattern(4096, 1);
  EXPECT_EQ(guest->write(0, pattern).status, 0);
  EXPECT_EQ(guest->read(0, 4096).data, pattern);
}

TEST_F(BlockDeviceTest, BufferedImagesAreServed) {
  start({"--buffered"});
  const auto guest = connect();
  const auto pattern = make_pattern(4096 + 512, 1);
  EXPECT_EQ(guest->perform(Type::kOut, 1, pattern, 0, 77).status, 0);
  EXPECT_EQ(guest->flush().status, 0);
  EXPECT_EQ(guest->read(1, pattern.size()).data, pattern);
}

TEST_F(BlockDeviceTest, RequestsMustBeAlignedToTheBlockSize) {
  start({"--block-size", "4096"});
  const auto guest = connect();
  EXPECT_EQ(guest->config().blk_size, 4096u);
  EXPECT_EQ(guest->read(8, 4096).status, 0);
  EXPECT_EQ(guest->read(1, 4096).status, 1);
  EXPECT_EQ(guest->read(8, 512).status, 1);
}

TEST_F(BlockDeviceTest, Rule51LegacyDriversWriteSectorsWhateverTheBlockSize) {
  start({"--block-size", "4096"});
  const auto guest =
      connect({.features = ~(virtio::kFeatureVersion1 | virtio::kFeatureRingPacked)});
  const auto pattern = make_pattern(4096, 51);
  ASSERT_EQ(guest->write(0, pattern).status, 0);
  const auto sector = make_pattern(512, 52);
  EXPECT_EQ(guest->write(3, sector).status, 0);
  EXPECT_EQ(guest->read(3, 512).data, sector);
  EXPECT_EQ(guest->perform(Type::kFlushOut, 0, {}, 0).status, 0);
  auto expected = pattern;
  std::ranges::copy(sector, expected.begin() + 3 * 512);
  EXPECT_EQ(image_bytes(0, 4096), expected) << "the other sectors of the block are unchanged";
}

/// The device's own blocks are larger as well: smaller writes are read-modify-write.
TEST_F(BlockDeviceTest, Rule51ConcurrentSectorWritesOfLegacyDriversLoseNoBytes) {
  const testing::LoopDevice device(image_, 4096);
  if (device.path().empty()) GTEST_SKIP() << "loop devices need root";
  image_ = device.path();
  start({"--block-size", "4096", "--num-queues", "2", "--threads", "2"});
  const auto guest =
      connect({.features = ~(virtio::kFeatureVersion1 | virtio::kFeatureRingPacked), .queues = 2});
  const vhost::SharedRange scratch = guest->scratch();
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    // One sector on each queue at once, in the same block.
    for (std::uint32_t queue = 0; queue < 2; ++queue) {
      const vhost::SharedRange at = scratch.part(queue * std::size_t{8192}, 8192);
      const vblk::RequestHeader header{Type::kOut, 0, queue * std::uint64_t{5}};
      std::memcpy(at.host, &header, sizeof header);
      at.host[64] = std::byte{0xff};
      std::memset(at.host + 4096, round + 1, 512);
      const std::array chain = {
          virtio::DriverSegment{at.gpa, sizeof header, virtio::Direction::kReadable},
          virtio::DriverSegment{at.gpa.plus_unchecked(4096), 512, virtio::Direction::kReadable},
          virtio::DriverSegment{at.gpa.plus_unchecked(64), 1, virtio::Direction::kWritable}};
      ASSERT_TRUE(guest->queue(queue).ring().add(chain));
      ASSERT_TRUE(guest->queue(queue).ring().publish());
    }
    for (std::uint32_t queue = 0; queue < 2; ++queue) ASSERT_TRUE(guest->queue(queue).kick());
    for (std::uint32_t queue = 0; queue < 2; ++queue) {
      ASSERT_TRUE(guest->wait_for_used(queue, std::chrono::seconds(60)));
      ASSERT_EQ(scratch.host[queue * std::size_t{8192} + 64], std::byte{0});
    }
    const auto block = guest->read(0, 4096);
    ASSERT_EQ(block.status, 0);
    const auto written = static_cast<std::byte>(round + 1);
    ASSERT_EQ(std::count(block.data.begin(), block.data.begin() + 512, written), 512) << round;
    ASSERT_EQ(std::count(block.data.begin() + 5 * 512, block.data.begin() + 6 * 512, written), 512)
        << round;
  }
}

TEST_F(BlockDeviceTest, ChainsInFlightAreDrainedBeforeExit) {
  start();
  const auto guest = connect();
  const auto pattern = make_pattern(1 << 20, 5);
  ASSERT_EQ(guest->write(0, pattern).status, 0);
  stop();
  EXPECT_EQ(image_bytes(0, pattern.size()), pattern);
}

}  // namespace
}  // namespace guestio::tests
