// SPDX-License-Identifier: MIT
#include "guestio/blk/block_device.h"

#include <gtest/gtest.h>

#include <cstring>

#include "guestio/disk/null_disk.h"

namespace guestio::blk {
namespace {

namespace vblk = virtio::blk;

BlockDevice make_device(const disk::DiskInfo& info = disk::make_null_disk_info(ByteCount(1
                                                                                         << 20))) {
  return BlockDevice({.disk = info, .queues = 2, .serial = "serial"});
}

vblk::Config config_of(const BlockDevice& device) {
  vblk::Config config{};
  EXPECT_TRUE(device.read_config(0, std::as_writable_bytes(std::span(&config, 1))));
  return config;
}

TEST(BlockDevice, CapacityIsInSectorsOf512BytesAtAnyBlockSize) {
  disk::DiskInfo info = disk::make_null_disk_info(ByteCount(1 << 20));
  info.block_size = ByteCount(4096);
  info.physical_block_size = ByteCount(4096);
  const auto config = config_of(make_device(info));
  EXPECT_EQ(config.capacity, (1u << 20) / 512);
  EXPECT_EQ(config.blk_size, 4096u);
  EXPECT_EQ(config.topology.physical_block_exp, 0);
}

TEST(BlockDevice, ReportsLargerPhysicalBlocksAsTopology) {
  disk::DiskInfo info = disk::make_null_disk_info(ByteCount(1 << 20));
  info.physical_block_size = ByteCount(4096);
  const auto config = config_of(make_device(info));
  EXPECT_EQ(config.topology.physical_block_exp, 3);
  EXPECT_EQ(config.topology.min_io_size, 8);
}

TEST(BlockDevice, OffersOnlyFeaturesOfTheDisk) {
  disk::DiskInfo info = disk::make_null_disk_info(ByteCount(1 << 20));
  info.discard.reset();
  EXPECT_EQ(make_device(info).offered_features() & vblk::kFeatureDiscard, 0u);
  EXPECT_NE(make_device(info).offered_features() & vblk::kFeatureWriteZeroes, 0u);
  constexpr auto kRare = vblk::kFeatureSecureErase | vblk::kFeatureLifetime;
  EXPECT_EQ(make_device(info).offered_features() & kRare, 0u);
  info.secure_erase = disk::RangeLimits{ByteCount(1 << 20), ByteCount(4096)};
  info.has_lifetime = true;
  EXPECT_EQ(make_device(info).offered_features() & kRare, kRare);
  EXPECT_EQ(config_of(make_device(info)).max_secure_erase_sectors, 2048u);
  EXPECT_EQ(config_of(make_device(info)).secure_erase_sector_alignment, 8u);
  EXPECT_NE(config_of(make_device(info)).max_secure_erase_seg, 0u);
  info.is_read_only = true;
  EXPECT_EQ(make_device(info).offered_features() & kRare, vblk::kFeatureLifetime);
  EXPECT_EQ(make_device(info).offered_features() & vblk::kFeatureWriteZeroes, 0u);
  EXPECT_NE(make_device(info).offered_features() & vblk::kFeatureReadOnly, 0u);
}

TEST(BlockDevice, OnlyTheWriteCacheByteMayBeWritten) {
  BlockDevice device = make_device();
  auto space = std::bit_cast<std::array<std::byte, sizeof(vblk::Config)>>(config_of(device));
  EXPECT_TRUE(device.write_config(0, space)) << "the same again";
  space[offsetof(vblk::Config, writeback)] = std::byte{0};
  EXPECT_TRUE(device.write_config(0, space));
  EXPECT_EQ(config_of(device).writeback, 0);
  space[0] ^= std::byte{1};
  space[offsetof(vblk::Config, writeback)] = std::byte{1};
  EXPECT_FALSE(device.write_config(0, space));
  EXPECT_EQ(config_of(device).writeback, 0) << "all or nothing";
  const std::byte two{2};
  EXPECT_FALSE(device.write_config(offsetof(vblk::Config, writeback), std::span(&two, 1)));
  EXPECT_FALSE(device.write_config(sizeof(vblk::Config), std::span(&two, 1)));
}

TEST(BlockDevice, WritesAreStableUnlessTheDriverHasFlushAndWriteBack) {
  BlockDevice device = make_device();
  EXPECT_EQ(device.write_durability(0), disk::Durability::kStable);
  EXPECT_EQ(device.write_durability(vblk::kFeatureFlush), disk::Durability::kCached);
  const std::byte off{0};
  ASSERT_TRUE(device.write_config(offsetof(vblk::Config, writeback), std::span(&off, 1)));
  EXPECT_EQ(device.write_durability(vblk::kFeatureFlush), disk::Durability::kStable);
}

TEST(BlockDevice, TheIdIsPaddedAndTruncated) {
  EXPECT_EQ(std::memcmp(make_device().id().data(), "serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20), 0);
  const BlockDevice longer({.disk = disk::make_null_disk_info(ByteCount(512)),
                            .queues = 1,
                            .serial = "more than twenty bytes of serial"});
  EXPECT_EQ(std::memcmp(longer.id().data(), "more than twenty byt", 20), 0);
}

}  // namespace
}  // namespace guestio::blk
