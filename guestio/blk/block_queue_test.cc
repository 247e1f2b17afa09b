// SPDX-License-Identifier: MIT
#include "guestio/blk/block_queue.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>

#include "guestio/blk/test/hand_made_queue.h"
#include "guestio/disk/null_disk.h"
#include "guestio/disk/ram_channel.h"

namespace guestio::blk {
namespace {

namespace vblk = virtio::blk;
using test::HandMadeQueue;
using vblk::RequestType;
using virtio::Direction;

class BlockQueueTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kMemoryBytes = std::size_t{1} << 20;

  BlockQueueTest() {
    auto disk = *disk::RamChannel::create(ByteCount(1 << 20));
    disk_ = disk.get();
    device_.emplace(BlockDeviceOptions{.disk = disk->info(), .serial = "s"});
    blk_ = std::make_unique<BlockQueue>(*device_, std::move(disk), 8);
  }

  /// Splits the readable and writable bytes of one request at random places into extents of guest
  /// memory. Returns the address of each writable byte.
  std::vector<Gpa> add_request(const vblk::RequestHeader& header, std::span<const std::byte> out,
                               std::size_t in_bytes) {
    const auto header_bytes = std::as_bytes(std::span(&header, 1));
    std::vector<std::byte> readable(header_bytes.begin(), header_bytes.end());
    for (const std::byte byte : out) readable.push_back(byte);
    std::vector<HandMadeQueue::Extent> chain;
    for (std::size_t done = 0; done < readable.size();) {
      const std::size_t size = 1 + random_() % (readable.size() - done);
      const Gpa at = next_place(size);
      EXPECT_TRUE(memory_.write(at, std::span(readable).subspan(done, size)));
      chain.push_back({at, static_cast<std::uint32_t>(size), Direction::kReadable});
      done += size;
    }
    std::vector<Gpa> places;
    while (places.size() < in_bytes + 1) {
      const std::size_t size = 1 + random_() % (in_bytes + 1 - places.size());
      const Gpa at = next_place(size);
      for (std::size_t i = 0; i < size; ++i) places.push_back(at.plus_unchecked(i));
      chain.push_back({at, static_cast<std::uint32_t>(size), Direction::kWritable});
    }
    queue_.add(std::move(chain));
    return places;
  }
  Gpa next_place(std::size_t size) {
    place_ += random_() % 100;
    if (place_ + size > kMemoryBytes) place_ = random_() % 100;
    const Gpa at(place_);
    place_ += size;
    return at;
  }
  std::byte byte_at(Gpa at) { return *memory_.load<std::byte>(at); }

  std::mt19937_64 random_{5};
  std::uint64_t place_ = 0;
  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(kMemoryBytes));
  disk::RamChannel* disk_ = nullptr;
  std::optional<BlockDevice> device_;
  std::unique_ptr<BlockQueue> blk_;
  HandMadeQueue queue_{memory_};
};

TEST_F(BlockQueueTest, HeaderDataAndStatusMayBeSplitAnywhere) {
  for (int round = 0; round < 500; ++round) {
    const std::size_t size = 512 * (1 + random_() % 8);
    const std::uint64_t sector = random_() % 1000;
    std::vector<std::byte> data(size);
    for (auto& byte : data) byte = static_cast<std::byte>(random_());
    const auto written = add_request({RequestType::kOut, 0, sector}, data, 0);
    blk_->process(queue_);
    ASSERT_EQ(queue_.used.back().written, 1u);
    ASSERT_EQ(byte_at(written.back()), std::byte{0});
    ASSERT_TRUE(std::equal(data.begin(), data.end(),
                           disk_->bytes().begin() + static_cast<std::ptrdiff_t>(sector * 512)));

    const auto read = add_request({RequestType::kIn, 0, sector}, {}, size);
    blk_->process(queue_);
    ASSERT_EQ(queue_.used.back().written, size + 1);
    ASSERT_EQ(byte_at(read.back()), std::byte{0});
    for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(byte_at(read[i]), data[i]) << round;
  }
}

TEST_F(BlockQueueTest, RangesMayBeSplitAnywhere) {
  std::ranges::fill(disk_->bytes(), std::byte{0xaa});
  const std::array ranges = {vblk::RangeSegment{1, 2, 0}, vblk::RangeSegment{10, 1, 1}};
  const auto places =
      add_request({RequestType::kWriteZeroes, 0, 0}, std::as_bytes(std::span(ranges)), 0);
  blk_->process(queue_);
  EXPECT_EQ(byte_at(places.back()), std::byte{0});
  EXPECT_EQ(disk_->bytes()[512], std::byte{0});
  EXPECT_EQ(disk_->bytes()[std::size_t{3} * 512 - 1], std::byte{0});
  EXPECT_EQ(disk_->bytes()[std::size_t{3} * 512], std::byte{0xaa});
  EXPECT_EQ(disk_->bytes()[std::size_t{10} * 512], std::byte{0});
}

TEST_F(BlockQueueTest, Rule34ARangeOverTheOfferedLimitIsRefused) {
  disk::DiskInfo info = disk_->info();
  info.discard = disk::RangeLimits{ByteCount(4096), ByteCount(512)};
  info.write_zeroes = info.discard;
  const BlockDevice device({.disk = info, .serial = "s"});
  BlockQueue blk(device, *disk::RamChannel::create(info.size), 8);
  for (const RequestType type : {RequestType::kDiscard, RequestType::kWriteZeroes}) {
    for (const std::uint32_t sectors : {8U, 9U}) {
      const vblk::RangeSegment range{0, sectors, 0};
      const auto places = add_request({type, 0, 0}, std::as_bytes(std::span(&range, 1)), 0);
      blk.process(queue_);
      EXPECT_EQ(byte_at(places.back()), std::byte{sectors > 8}) << sectors;
    }
  }
}

TEST_F(BlockQueueTest, SecureErasesNeedSupportAndAlignment) {
  std::ranges::fill(disk_->bytes(), std::byte{0xaa});
  const auto erase = [&](BlockQueue& blk, vblk::RangeSegment range) {
    const auto places =
        add_request({RequestType::kSecureErase, 0, 0}, std::as_bytes(std::span(&range, 1)), 0);
    blk.process(queue_);
    return byte_at(places.back());
  };
  EXPECT_EQ(erase(*blk_, {8, 8, 0}), std::byte{0});
  EXPECT_EQ(disk_->bytes()[std::size_t{8} * 512 - 1], std::byte{0xaa});
  EXPECT_EQ(disk_->bytes()[std::size_t{8} * 512], std::byte{0});
  EXPECT_EQ(erase(*blk_, {16, 8, vblk::kRangeUnmap}), std::byte{2}) << "unmap is not for it";

  disk::DiskInfo info = disk_->info();
  info.secure_erase = disk::RangeLimits{ByteCount(8192), ByteCount(4096)};
  const BlockDevice device({.disk = info, .serial = "s"});
  BlockQueue limited(device, *disk::RamChannel::create(info.size), 8);
  EXPECT_EQ(erase(limited, {8, 16, 0}), std::byte{0});
  EXPECT_EQ(erase(limited, {8, 24, 0}), std::byte{1}) << "more than offered";
  EXPECT_EQ(erase(limited, {4, 8, 0}), std::byte{1}) << "what is left over could be read again";
  info.secure_erase.reset();
  const BlockDevice without({.disk = info, .serial = "s"});
  BlockQueue unable(without, *disk::RamChannel::create(info.size), 8);
  EXPECT_EQ(erase(unable, {8, 8, 0}), std::byte{2});
}

/// A disk with a lifetime.
class WornDisk final : public disk::Channel {
 public:
  void start(disk::Io& io) noexcept override { io.on_done({}); }
  Result<disk::Lifetime> lifetime() override {
    return disk::Lifetime{.pre_eol_info = 2, .estimate_type_a = 3, .estimate_type_b = 0x102};
  }
};

TEST_F(BlockQueueTest, TheLifetimeIsReportedIfTheDiskHasOne) {
  BlockQueue blk(*device_, std::make_unique<WornDisk>(), 8);
  const auto told = add_request({RequestType::kGetLifetime, 0, 0}, {}, sizeof(vblk::Lifetime));
  const auto short_room = add_request({RequestType::kGetLifetime, 0, 0}, {}, 5);
  blk.process(queue_);
  EXPECT_EQ(byte_at(told.back()), std::byte{0});
  constexpr std::array kExpected = {2, 0, 3, 0, 2, 1};  // little-endian
  for (std::size_t i = 0; i < kExpected.size(); ++i) {
    EXPECT_EQ(byte_at(told[i]), static_cast<std::byte>(kExpected[i])) << i;
  }
  EXPECT_EQ(byte_at(short_room.back()), std::byte{1});
  const auto unknown = add_request({RequestType::kGetLifetime, 0, 0}, {}, sizeof(vblk::Lifetime));
  blk_->process(queue_);
  EXPECT_EQ(byte_at(unknown.back()), std::byte{2});
}

TEST_F(BlockQueueTest, EveryFailureWithAStatusByteWritesIt) {
  const auto past = add_request({RequestType::kIn, 0, 1 << 20}, {}, 512);
  // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange): what a guest may send
  const auto unknown = add_request({RequestType{1000}, 0, 0}, {}, 0);
  blk_->process(queue_);
  EXPECT_EQ(byte_at(past.back()), std::byte{1});
  EXPECT_EQ(byte_at(unknown.back()), std::byte{2});
}

TEST_F(BlockQueueTest, Rule27AChainIsReturnedOnlyWithItsStatusWritten) {
  const Gpa outside(kMemoryBytes);
  const vblk::RequestHeader flush{RequestType::kFlush, 0, 0};
  ASSERT_TRUE(memory_.write(Gpa(0), std::as_bytes(std::span(&flush, 1))));
  const std::vector<std::vector<HandMadeQueue::Extent>> without_status = {
      {},
      {{Gpa(0), 16, Direction::kReadable}},
      {{Gpa(0), 15, Direction::kReadable}, {outside, 1, Direction::kWritable}},
      {{Gpa(0), 16, Direction::kReadable}, {outside, 1, Direction::kWritable}},
      {{Gpa(0), 16, Direction::kReadable}, {Gpa(kMemoryBytes - 1), 2, Direction::kWritable}},
  };
  for (const auto& chain : without_status) queue_.add(chain);
  blk_->process(queue_);
  EXPECT_EQ(queue_.abandoned.size(), without_status.size());
  EXPECT_TRUE(queue_.used.empty());
}

TEST_F(BlockQueueTest, Rule27AMissingOrUnmappedHeaderStillGetsItsStatus) {
  const Gpa outside(kMemoryBytes);
  const std::vector<std::vector<HandMadeQueue::Extent>> with_status = {
      {{Gpa(64), 1, Direction::kWritable}},
      {{Gpa(0), 15, Direction::kReadable}, {Gpa(32), 33, Direction::kWritable}},
      {{outside, 16, Direction::kReadable}, {Gpa(64), 1, Direction::kWritable}},
      {{outside, 17, Direction::kReadable}, {Gpa(63), 2, Direction::kWritable}},
  };
  for (const auto& chain : with_status) {
    ASSERT_TRUE(memory_.store<std::uint8_t>(Gpa(64), 0));
    queue_.add(chain);
    blk_->process(queue_);
    EXPECT_EQ(byte_at(Gpa(64)), std::byte{1});
  }
  EXPECT_EQ(queue_.used.size(), with_status.size());
  for (const auto& used : queue_.used) EXPECT_EQ(used.written, 1u);
}

TEST_F(BlockQueueTest, Rule27AMalformedChainGetsAnIoErrorInItsLastWritableByte) {
  virtio::ExtentArena arena(16);
  virtio::MemoryEpoch epoch{memory_, 0};
  virtio::PoppedChain taken;
  taken.epoch = &epoch;
  taken.chain.begin(0, arena);
  taken.chain.mark_malformed(Error::peer_fault("test"));
  EXPECT_EQ(blk_->write_error_status(taken), std::nullopt);
  taken.chain.append_malformed(Gpa(64), 8, Direction::kWritable);
  EXPECT_EQ(blk_->write_error_status(taken), 1u);
  EXPECT_EQ(byte_at(Gpa(71)), std::byte{1});
  EXPECT_EQ(byte_at(Gpa(70)), std::byte{0});
  taken.chain.append_malformed(Gpa(kMemoryBytes), 1, Direction::kWritable);
  EXPECT_EQ(blk_->write_error_status(taken), std::nullopt) << "outside memory";
}

/// A driver at each of the offered limits.
TEST_F(BlockQueueTest, Rule52ADriverAtEveryOfferedLimitGetsNoError) {
  disk::DiskInfo info = disk_->info();
  info.discard = disk::RangeLimits{ByteCount(16384), ByteCount(4096)};
  info.write_zeroes = disk::RangeLimits{ByteCount(8192), ByteCount(512)};
  info.secure_erase = disk::RangeLimits{ByteCount(65536), ByteCount(4096)};
  const BlockDevice device({.disk = info, .serial = "s"});
  BlockQueue blk(device, *disk::RamChannel::create(info.size), 8);
  vblk::Config config{};
  ASSERT_TRUE(device.read_config(0, std::as_writable_bytes(std::span(&config, 1))));
  struct Limits {
    RequestType type;
    std::uint32_t ranges;
    std::uint32_t sectors;
  };
  for (const Limits& limits :
       {Limits{RequestType::kDiscard, config.max_discard_seg, config.max_discard_sectors},
        Limits{RequestType::kWriteZeroes, config.max_write_zeroes_seg,
               config.max_write_zeroes_sectors},
        Limits{RequestType::kSecureErase, config.max_secure_erase_seg,
               config.max_secure_erase_sectors}}) {
    SCOPED_TRACE(static_cast<std::uint32_t>(limits.type));
    ASSERT_NE(limits.ranges, 0U);
    ASSERT_NE(limits.sectors, 0U);
    std::vector<vblk::RangeSegment> ranges(limits.ranges);
    for (std::uint32_t i = 0; i < limits.ranges; ++i) {
      ranges[i] = {i * std::uint64_t{limits.sectors} % 1024, limits.sectors, 0};
    }
    const auto places = add_request({limits.type, 0, 0}, std::as_bytes(std::span(ranges)), 0);
    blk.process(queue_);
    EXPECT_EQ(byte_at(places.back()), std::byte{0});
  }
  // As many segments as offered, of any length, besides header and status.
  const vblk::RequestHeader read{RequestType::kIn, 0, 0};
  ASSERT_TRUE(memory_.write(Gpa(0), std::as_bytes(std::span(&read, 1))));
  std::vector<HandMadeQueue::Extent> chain = {{Gpa(0), 16, Direction::kReadable}};
  for (std::uint32_t i = 0; i < config.seg_max; ++i) {
    chain.push_back({Gpa(4096 + i * 1024U), 512, Direction::kWritable});
  }
  ASSERT_TRUE(memory_.store<std::uint8_t>(Gpa(64), 0xff));
  chain.push_back({Gpa(64), 1, Direction::kWritable});
  queue_.add(chain);
  blk.process(queue_);
  EXPECT_EQ(byte_at(Gpa(64)), std::byte{0});
  EXPECT_EQ(queue_.used.back().written, config.seg_max * 512 + 1);
}

TEST_F(BlockQueueTest, Rule51FlushOutIsAFlushOfLegacyDriversOnly) {
  const auto modern = add_request({RequestType::kFlushOut, 0, 0}, {}, 0);
  blk_->process(queue_);
  EXPECT_EQ(byte_at(modern.back()), std::byte{2});
  queue_.negotiated = vblk::kFeatureFlush;
  const auto legacy = add_request({RequestType::kFlushOut, 0, 0}, {}, 0);
  blk_->process(queue_);
  EXPECT_EQ(byte_at(legacy.back()), std::byte{0});
}

TEST_F(BlockQueueTest, Rule51SectorsAreServedToDriversWithoutBlockSize) {
  struct Driver {
    const char* name;
    virtio::FeatureBits negotiated;
    std::byte status;
  };
  disk::DiskInfo info = disk_->info();
  info.block_size = ByteCount(4096);
  const BlockDevice device({.disk = info, .serial = "s"});
  BlockQueue blk(device, *disk::RamChannel::create(info.size), 8);
  const vblk::RangeSegment range{1, 1, 0};
  for (const Driver& driver :
       {Driver{"legacy", 0, std::byte{0}},
        Driver{"legacy with blocks", vblk::kFeatureBlockSize, std::byte{0}},
        Driver{"modern without blocks", virtio::kFeatureVersion1, std::byte{0}},
        Driver{"modern", virtio::kFeatureVersion1 | vblk::kFeatureBlockSize, std::byte{1}}}) {
    SCOPED_TRACE(driver.name);
    queue_.negotiated = driver.negotiated;
    const auto read = add_request({RequestType::kIn, 0, 1}, {}, 512);
    const auto write = add_request({RequestType::kOut, 0, 3}, std::vector<std::byte>(512), 0);
    const auto zero =
        add_request({RequestType::kWriteZeroes, 0, 0}, std::as_bytes(std::span(&range, 1)), 0);
    const auto part = add_request({RequestType::kIn, 0, 1}, {}, 511);
    blk.process(queue_);
    EXPECT_EQ(byte_at(read.back()), driver.status);
    EXPECT_EQ(byte_at(write.back()), driver.status);
    EXPECT_EQ(byte_at(zero.back()), driver.status);
    EXPECT_EQ(byte_at(part.back()), std::byte{1}) << "no whole sector";
  }
}

/// Holds requests until the test completes them.
class HoldingChannel final : public disk::Channel {
 public:
  void start(disk::Io& io) noexcept override { held.push_back(&io); }
  std::deque<disk::Io*> held;
};

TEST(BlockQueue, AnEmptyPoolPopsNothingUntilARequestCompletes) {
  const auto memory = *mem::GuestMemory::allocate(ByteCount(65536));
  const BlockDevice device(
      {.disk = disk::make_null_disk_info(ByteCount(1 << 20)), .queues = 1, .serial = {}});
  auto channel = std::make_unique<HoldingChannel>();
  HoldingChannel& held = *channel;
  HandMadeQueue queue(memory);
  BlockQueue blk(device, std::move(channel), 2);
  const vblk::RequestHeader flush{RequestType::kFlush, 0, 0};
  ASSERT_TRUE(memory.write(Gpa(0), std::as_bytes(std::span(&flush, 1))));
  for (int i = 0; i < 3; ++i) {
    queue.add({{Gpa(0), 16, Direction::kReadable}, {Gpa(64), 1, Direction::kWritable}});
  }
  blk.process(queue);
  EXPECT_EQ(held.held.size(), 2u);
  held.held[1]->on_done({});
  blk.process(queue);
  EXPECT_EQ(held.held.size(), 3u);
  held.held[0]->on_done({});
  held.held[2]->on_done({});
  EXPECT_EQ(queue.used.size(), 3u);
}

}  // namespace
}  // namespace guestio::blk
