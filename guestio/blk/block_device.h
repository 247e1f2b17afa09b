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
  std::string_view serial;  ///< what GET_ID answers; at most 20 bytes are used
  /// Ranges in one discard, write-zeroes or secure-erase request; at most
  /// BlockDevice::kMaxRanges.
  std::uint32_t max_ranges = 16;
  std::string name = "disk";  ///< the subject of log lines, as in "disk root"
  /// Called before the first ring runs and after the last one has stopped, on the control thread.
  std::function<Result<>()> begin_use = [] { return Result<>(); };
  std::function<void()> end_use = [] {};
};

/// A virtio block device without its queues: features, configuration space, the driver's choice of
/// write cache (virtio 1.2, section 5.2). A BlockQueue a virtqueue does the requests.
///
/// Threads: the Device interface belongs to the control thread; the rest may be asked from any.
class BlockDevice final : public virtio::Device {
 public:
  /// Chains of at most this many data segments are asked for: a queue of 128 less header and
  /// status.
  static constexpr std::uint32_t kSegMax = 126;
  /// The most ranges in one discard, write-zeroes or secure-erase request that can be offered.
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
  /// The disk has grown and takes requests up to there. The control thread; the transport is to
  /// tell the driver.
  void set_size(ByteCount size) noexcept { disk_.size = size; }
  /// What the driver chose: whether there is a write cache. For another process that goes on with
  /// the device.
  [[nodiscard]] bool has_write_cache() const noexcept {
    return write_cache_.load(std::memory_order_relaxed) != 0;
  }
  void set_write_cache(bool is_on) noexcept {
    write_cache_.store(is_on ? 1 : 0, std::memory_order_relaxed);
  }
  /// Padded with NUL.
  [[nodiscard]] std::span<const std::byte, virtio::blk::kIdBytes> id() const noexcept {
    return id_;
  }
  /// Whether a write must be lasting before it is answered (5.2.6.2): the driver did not take the
  /// flush command, or switched the cache off.
  [[nodiscard]] disk::Durability write_durability(virtio::FeatureBits negotiated) const noexcept;
  /// What requests must be a multiple of. A driver that did not take the block size does not know
  /// it, and one from before virtio 1.0 took it as advice: they may ask for any sectors.
  [[nodiscard]] static disk::Granularity granularity(virtio::FeatureBits negotiated) noexcept {
    constexpr virtio::FeatureBits kKeepsToBlocks =
        virtio::kFeatureVersion1 | virtio::blk::kFeatureBlockSize;
    return (negotiated & kKeepsToBlocks) == kKeepsToBlocks ? disk::Granularity::kBlocks
                                                           : disk::Granularity::kSectors;
  }
  /// Holds back log lines about failing requests.
  [[nodiscard]] log::RateLimit& failure_log() const noexcept { return failure_log_; }

 private:
  [[nodiscard]] virtio::blk::Config make_config() const noexcept;

  disk::DiskInfo disk_;  // constant but for the size
  const std::string name_;
  const std::uint16_t queues_;
  const std::uint32_t max_ranges_;
  const std::function<Result<>()> begin_use_;
  const std::function<void()> end_use_;
  std::array<std::byte, virtio::blk::kIdBytes> id_{};
  /// States: 1 write-back, 0 write-through. Kept over reconnects: a guest that chose write-through
  /// is not told when its front-end comes back. Relaxed: it orders nothing else.
  std::atomic<std::uint8_t> write_cache_{1};
  mutable log::RateLimit failure_log_{10, std::chrono::seconds(5)};
};

}  // namespace guestio::blk
