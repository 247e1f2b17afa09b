// SPDX-License-Identifier: MIT
#include "guestio/blk/block_device.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace guestio::blk {

namespace vblk = virtio::blk;

namespace {

using ConfigBytes = std::array<std::byte, sizeof(vblk::Config)>;

std::uint32_t to_sectors(ByteCount bytes) noexcept {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(
      bytes.raw() / Sector::kSize, std::numeric_limits<std::uint32_t>::max()));
}

/// Logical blocks in a physical block, as a power of two.
std::uint8_t physical_exponent(const disk::DiskInfo& disk) noexcept {
  const std::uint64_t ratio = disk.physical_block_size.raw() / disk.block_size.raw();
  return ratio > 1 ? static_cast<std::uint8_t>(std::bit_width(ratio) - 1) : std::uint8_t{0};
}

}  // namespace

BlockDevice::BlockDevice(const BlockDeviceOptions& options)
    : disk_(options.disk),
      name_(options.name),
      queues_(options.queues),
      max_ranges_(std::clamp(options.max_ranges, 1U, kMaxRanges)),
      begin_use_(options.begin_use),
      end_use_(options.end_use) {
  const auto serial = std::as_bytes(std::span(options.serial));
  std::ranges::copy(serial.first(std::min(serial.size(), id_.size())), id_.begin());
}

virtio::FeatureBits BlockDevice::offered_features() const noexcept {
  virtio::FeatureBits features = vblk::kFeatureSegMax | vblk::kFeatureBlockSize |
                                 vblk::kFeatureTopology | vblk::kFeatureFlush |
                                 vblk::kFeatureConfigWce;
  if (queues_ > 1) features |= vblk::kFeatureMultiQueue;
  if (disk_.has_lifetime) features |= vblk::kFeatureLifetime;
  if (disk_.is_read_only) return features | vblk::kFeatureReadOnly;
  if (disk_.discard) features |= vblk::kFeatureDiscard;
  if (disk_.write_zeroes) features |= vblk::kFeatureWriteZeroes;
  if (disk_.secure_erase) features |= vblk::kFeatureSecureErase;
  return features;
}

vblk::Config BlockDevice::make_config() const noexcept {
  vblk::Config config{};
  config.capacity = disk_.size.raw() / Sector::kSize;
  config.seg_max = kSegMax;
  config.blk_size = static_cast<std::uint32_t>(disk_.block_size.raw());
  config.topology.physical_block_exp = physical_exponent(disk_);
  config.topology.min_io_size = static_cast<std::uint16_t>(1U << physical_exponent(disk_));
  config.writeback = write_cache_.load(std::memory_order_relaxed);
  config.num_queues = queues_;
  if (disk_.discard) {
    config.max_discard_sectors = to_sectors(disk_.discard->max_bytes);
    config.max_discard_seg = max_ranges_;
    config.discard_sector_alignment = std::max(1U, to_sectors(disk_.discard->alignment));
  }
  if (disk_.write_zeroes) {
    config.max_write_zeroes_sectors = to_sectors(disk_.write_zeroes->max_bytes);
    config.max_write_zeroes_seg = max_ranges_;
    config.write_zeroes_may_unmap = disk_.discard ? 1 : 0;
  }
  if (disk_.secure_erase) {
    config.max_secure_erase_sectors = to_sectors(disk_.secure_erase->max_bytes);
    config.max_secure_erase_seg = max_ranges_;
    config.secure_erase_sector_alignment = std::max(1U, to_sectors(disk_.secure_erase->alignment));
  }
  return config;
}

std::size_t BlockDevice::config_size() const noexcept { return sizeof(vblk::Config); }

Result<> BlockDevice::read_config(std::size_t offset, std::span<std::byte> to) const {
  const auto space = std::bit_cast<ConfigBytes>(make_config());
  if (!fits_within(offset, to.size(), space.size())) {
    return fail(ErrorKind::kOutOfRange, "read the configuration space", offset, space.size());
  }
  for (std::byte& byte : to) byte = space[offset++];
  return {};
}

Result<> BlockDevice::write_config(std::size_t offset, std::span<const std::byte> from) {
  // Drivers and front-ends may write the whole space; only the write-cache byte may differ.
  constexpr std::size_t kWriteback = offsetof(vblk::Config, writeback);
  const auto present = std::bit_cast<ConfigBytes>(make_config());
  if (!fits_within(offset, from.size(), present.size())) {
    return fail(ErrorKind::kOutOfRange, "write the configuration space", offset, present.size());
  }
  std::byte write_cache = present[kWriteback];
  for (const std::byte byte : from) {
    if (offset == kWriteback) {
      write_cache = byte;
    } else if (byte != present[offset]) {
      return fail(ErrorKind::kReadOnly, "write the configuration space");
    }
    ++offset;
  }
  if (write_cache > std::byte{1}) {
    return fail(ErrorKind::kInvalidArgument, "write cache", std::to_integer<unsigned>(write_cache));
  }
  write_cache_.store(std::to_integer<std::uint8_t>(write_cache), std::memory_order_relaxed);
  return {};
}

disk::Durability BlockDevice::write_durability(virtio::FeatureBits negotiated) const noexcept {
  const bool is_cached =
      (negotiated & vblk::kFeatureFlush) != 0 && write_cache_.load(std::memory_order_relaxed) != 0;
  return is_cached ? disk::Durability::kCached : disk::Durability::kStable;
}

}  // namespace guestio::blk
