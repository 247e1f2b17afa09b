// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>

#include "disk_options.h"
#include "guestio/disk/disk.h"
#include "guestio/uring/loop.h"

namespace guestio::app {

/// What --blk-file names, opened: an image on the host, or `null:SIZE`, a disk of that size that
/// does nothing (disk::NullChannel). Outlives its channels.
class Image {
 public:
  /// Errors: of disk::FileDisk::open(); invalid argument (a size or block size that is none).
  static Result<Image> open(const DiskOptions& options);

  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return info_; }
  /// Asks how large the image is now; what it has grown by can be used from then on. Returns the
  /// size. Errors: of disk::FileDisk::notice_size(); unsupported (what is no file).
  Result<ByteCount> notice_size() const { return notice_size_(); }
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

  Image(const disk::DiskInfo& info, OpenChannel open_channel, NoticeSize notice_size)
      : info_(info), open_channel_(std::move(open_channel)), notice_size_(std::move(notice_size)) {}
  static Result<Image> open_file(const DiskOptions& options);
  static Result<Image> make_null(std::string_view size, const DiskOptions& options);

  disk::DiskInfo info_;
  OpenChannel open_channel_;  // keeps the disk alive
  NoticeSize notice_size_;
  std::function<Result<>()> claim_ = [] { return Result<>(); };
  std::function<void()> release_ = [] {};
};

}  // namespace guestio::app
