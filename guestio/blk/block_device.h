// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <string>
#include <string_view>

#include "guestio/base/log.h"
#include "guestio/disk/disk.h"
#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/device.h"

namespace guestio::blk {

struct BlockDeviceOptions {
  disk::DiskInfo disk;
  std::uint16_t queues = 1;
  std::string_view serial;  ///< reply to GET_ID; at most 20 bytes are used
  /// Ranges in one discard, write-zeroes or secure-erase request; at most
  /// BlockDevice::kMaxRanges.
  std::uint32_t max_ranges = 16;
  std::string name = "disk";  ///< the subject of log lines, as in "disk root"
  /// Called before the first ring starts and after the last one has stopped, on the control thread.
  std::function<Result<>()> begin_use = [] { return Result<>(); };
  std::function<void()> end_use = [] {};
};

/// A virtio block device without its queues: features, configuration space, write-cache mode
/// (virtio 1.2, section 5.2). A BlockQueue serves the requests of one virtqueue.
///
/// Threads: the control thread for the virtio::Device interface and set_size(); any for the rest.
class BlockDevice final : public virtio::Device {
 public:
  /// Data segments of a request (seg_max): a queue of 128 without header and status.
  static constexpr std::uint32_t kSegMax = 126;
  /// Upper limit of BlockDeviceOptions::max_ranges.
  static constexpr std::uint32_t kMaxRanges = 16;

  explicit BlockDevice(const BlockDeviceOptions& options);

  [[nodiscard]] virtio::FeatureBits offered_features() const noexcept override;
  [[nodiscard]] std::size_t config_size() const noexcept override;
  Result<> read_config(std::size_t offset, std::span<std::byte> to) const override;
  Result<> write_config(std::size_t offset, std::span<const std::byte> from) override;
  Result<> begin_use() override { return begin_use_(); }
  void end_use() noexcept override { end_use_(); }

  [[nodiscard]] const disk::DiskInfo& disk() const noexcept { return disk_; }
  [[nodiscard]] std::uint32_t max_ranges() const noexcept { return max_ranges_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Requires: the disk serves requests up to `size`. The transport notifies the driver.
  void set_size(ByteCount size) noexcept { disk_.size = size; }
  /// Write-back (true) or write-through, as the driver chose. A takeover passes it on.
  [[nodiscard]] bool has_write_cache() const noexcept {
    return write_cache_.load(std::memory_order_relaxed) != 0;
  }
  void set_write_cache(bool is_on) noexcept {
    write_cache_.store(is_on ? 1 : 0, std::memory_order_relaxed);
  }
  /// The serial, padded with NUL.
  [[nodiscard]] std::span<const std::byte, virtio::blk::kIdBytes> id() const noexcept {
    return id_;
  }
  /// kStable if writes must be durable before completion (5.2.6.2): FLUSH was not negotiated, or
  /// the cache is in write-through mode.
  [[nodiscard]] disk::Durability write_durability(virtio::FeatureBits negotiated) const noexcept;
  /// Alignment of requests. Drivers without BLK_SIZE do not know the block size, and legacy drivers
  /// take it for advice: both may send any sectors.
  [[nodiscard]] static disk::Granularity granularity(virtio::FeatureBits negotiated) noexcept {
    constexpr virtio::FeatureBits kRespectsBlocks =
        virtio::kFeatureVersion1 | virtio::blk::kFeatureBlockSize;
    return (negotiated & kRespectsBlocks) == kRespectsBlocks ? disk::Granularity::kBlocks
                                                             : disk::Granularity::kSectors;
  }
  /// Rate limit of log lines about failed requests.
  [[nodiscard]] log::RateLimit& failure_log() const noexcept { return failure_log_; }

 private:
  [[nodiscard]] virtio::blk::Config make_config() const noexcept;

  disk::DiskInfo disk_;  // constant except for the size
  const std::string name_;
  const std::uint16_t queues_;
  const std::uint32_t max_ranges_;
  const std::function<Result<>()> begin_use_;
  const std::function<void()> end_use_;
  std::array<std::byte, virtio::blk::kIdBytes> id_{};
  /// States: 1 write-back, 0 write-through. Survives reconnects: the guest does not see them, and
  /// relies on its choice. Relaxed: it orders nothing else.
  std::atomic<std::uint8_t> write_cache_{1};
  mutable log::RateLimit failure_log_{10, std::chrono::seconds(5)};
};

}  // namespace guestio::blk
