// SPDX-License-Identifier: MIT
#pragma once

#include <guestio/disk/disk.h>
#include <guestio/disk/registry.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// The disk `join:PATH:PATH…`: files, one after another, as one disk. For images that split(1) or a
/// file system's size limit has cut.
///
///     disk   |   piece 0   | piece 1 |    piece 2    |
///
/// 1. Each piece is a whole number of blocks. Sizes are fixed.
/// 2. Pieces are opened with O_DSYNC: a completed write is durable, and a flush has nothing to do.
/// 3. A lock on the first piece excludes other programs that lock images, such as guestio-blk and
///    QEMU. The others have none.
namespace join {

/// One file of the disk.
struct Piece {
  guestio::UniqueFd file;
  std::uint64_t start = 0;  ///< of its bytes in the disk
  std::uint64_t end = 0;
};

class JoinDisk final : public guestio::disk::Disk {
 public:
  /// `first`: the open first piece of the process before, on a takeover; else empty. Errors:
  /// invalid argument, unsupported (settings; a claim while in use only), busy, host.
  static guestio::disk::OpenResult<std::shared_ptr<JoinDisk>> open(
      const guestio::disk::OpenOptions& options, guestio::UniqueFd first);

  [[nodiscard]] const guestio::disk::DiskInfo& info() const noexcept override { return info_; }
  guestio::Result<std::unique_ptr<guestio::disk::Channel>> open_channel(
      guestio::uring::Loop& loop, guestio::ByteCount bounce_limit) override;
  guestio::Result<guestio::ByteCount> refresh_size() override;
  [[nodiscard]] guestio::disk::DiskStatus status() const override;
  [[nodiscard]] guestio::Result<guestio::disk::DiskSnapshot> snapshot() const override;

  /// The piece with the byte at `offset`. Requires: it is inside the disk.
  [[nodiscard]] const Piece& piece_at(std::uint64_t offset) const noexcept;

 private:
  JoinDisk(const guestio::disk::DiskInfo& info, std::vector<Piece> pieces) noexcept;

  const guestio::disk::DiskInfo info_;
  const std::vector<Piece> pieces_;
};

}  // namespace join
