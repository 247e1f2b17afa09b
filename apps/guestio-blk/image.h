// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>

#include "guestio/disk/disk.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/uring/loop.h"
#include "options/disk_options.h"

namespace guestio::app {

/// What --blk-file names, opened: an image on the host, or `null:SIZE`, a disk of that size that
/// does nothing (disk::NullChannel). Outlives its channels.
class Image {
 public:
  /// Errors: of disk::FileDisk::open(); invalid argument (a size or block size that is none).
  static Result<Image> open(const DiskOptions& options);

  /// Goes on with what another process has open. Errors: of disk::FileDisk::adopt(), and of open().
  static Result<Image> adopt(const DiskOptions& options, disk::DiskSnapshot state);
  /// For another process to go on with; no files for what is none. Errors: host.
  [[nodiscard]] Result<disk::DiskSnapshot> state() const { return state_(); }
  /// What the other process did since adopt(). Errors: of disk::FileDisk::catch_up().
  Result<> restore(UniqueFd claim, int lost_by) const {
    return catch_up_(std::move(claim), lost_by);
  }

  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return info_; }
  /// Asks how large the image is now; what it has grown by can be used from then on. Returns the
  /// size. Errors: of disk::FileDisk::refresh_size(); unsupported (what is no file).
  Result<ByteCount> refresh_size() const { return notice_size_(); }
  /// A way to the disk for the thread that runs `loop`. Errors: host.
  Result<std::unique_ptr<disk::Channel>> open_channel(uring::Loop& loop) const {
    return open_channel_(loop);
  }
  /// Keeps other processes from the image until it is released; nothing unless asked for by
  /// DiskOptions::claiming. Errors: busy, host.
  Result<> claim() const { return claim_(); }
  void release() const { release_(); }

 private:
  using OpenChannel = std::function<Result<std::unique_ptr<disk::Channel>>(uring::Loop& loop)>;

  using NoticeSize = std::function<Result<ByteCount>()>;

  Image(const disk::DiskInfo& info, OpenChannel open_channel, NoticeSize refresh_size)
      : info_(info),
        open_channel_(std::move(open_channel)),
        notice_size_(std::move(refresh_size)) {}
  static Image over(std::shared_ptr<disk::FileDisk> disk, const DiskOptions& options);
  static Result<Image> make_null(std::string_view size, const DiskOptions& options);

  disk::DiskInfo info_;
  OpenChannel open_channel_;  // keeps the disk alive
  NoticeSize notice_size_;
  std::function<Result<>()> claim_ = [] { return Result<>(); };
  std::function<void()> release_ = [] {};
  std::function<Result<disk::DiskSnapshot>()> state_ = [] { return disk::DiskSnapshot(); };
  std::function<Result<>(UniqueFd, int)> catch_up_ = [](UniqueFd, int) { return Result<>(); };
};

}  // namespace guestio::app
