// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <memory>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/disk/disk.h"

namespace guestio::disk {

struct RamDiskOptions {
  ByteCount size;
  ByteCount block_size = ByteCount(512);
  bool is_read_only = false;
};

/// A disk in memory, in a file without a name. Blocks that were never written, or were discarded,
/// take no memory. A takeover hands the file over; the end of the process frees it.
///
/// Threads: as Disk. Requests complete before Channel::start() returns.
class RamDisk final : public Disk {
 public:
  /// Rounds the size down to whole blocks. Errors: invalid argument (block size; less than one
  /// block), host.
  static Result<std::unique_ptr<RamDisk>> create(const RamDiskOptions& options);
  /// The disk of another process, from its snapshot. Errors: invalid argument (a snapshot of
  /// another disk), host.
  static Result<std::unique_ptr<RamDisk>> take_over(const RamDiskOptions& options,
                                                    DiskSnapshot snapshot);

  [[nodiscard]] const DiskInfo& info() const noexcept override { return info_; }
  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce_limit) override;
  Result<ByteCount> refresh_size() override;
  [[nodiscard]] DiskStatus status() const override;
  [[nodiscard]] Result<DiskSnapshot> snapshot() const override;

 private:
  class RamDiskChannel;

  static Result<std::unique_ptr<RamDisk>> make(const RamDiskOptions& options, UniqueFd file);
  RamDisk(const DiskInfo& info, UniqueFd file, Mapping memory) noexcept;

  const DiskInfo info_;
  const UniqueFd file_;
  const Mapping memory_;
};

}  // namespace guestio::disk
