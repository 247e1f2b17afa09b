// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// Discards writes and leaves the buffers of reads unchanged: measures the cost of the path to a
/// disk. Every request completes before start() returns.
class NullChannel final : public Channel {
 public:
  explicit NullChannel(const DiskInfo& info) noexcept : info_(info) {}
  void start(Io& io) noexcept override { io.on_done(check_io(info_, io)); }

 private:
  const DiskInfo info_;
};

/// Facts of a null disk of `size` bytes with discard and write-zeroes.
[[nodiscard]] DiskInfo make_null_disk_info(ByteCount size) noexcept;

struct NullDiskOptions {
  ByteCount size;
  ByteCount block_size = ByteCount(512);
  bool is_read_only = false;
};

/// A disk of null channels.
class NullDisk final : public Disk {
 public:
  /// Rounds the size down to whole blocks. Errors: invalid argument (block size; less than one
  /// block).
  static Result<std::unique_ptr<NullDisk>> create(const NullDiskOptions& options);

  [[nodiscard]] const DiskInfo& info() const noexcept override { return info_; }
  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce_limit) override;
  Result<ByteCount> refresh_size() override;
  [[nodiscard]] DiskStatus status() const override;

 private:
  explicit NullDisk(const DiskInfo& info) noexcept : info_(info) {}

  const DiskInfo info_;
};

}  // namespace guestio::disk
