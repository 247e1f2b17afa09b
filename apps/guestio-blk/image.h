// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>

#include "guestio/disk/disk.h"
#include "guestio/uring/loop.h"
#include "options.h"

namespace guestio::app {

/// What --blk-file names, opened: an image on the host, or `null:SIZE`, a disk of that size that
/// does nothing (disk::NullChannel). Outlives its channels.
class Image {
 public:
  /// Errors: of disk::FileDisk::open(); invalid argument (a size or block size that is none).
  static Result<Image> open(const Options& options);

  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return info_; }
  /// A way to the disk for the thread that runs `loop`. Errors: host.
  Result<std::unique_ptr<disk::Channel>> open_channel(uring::Loop& loop) const {
    return open_channel_(loop);
  }

 private:
  using OpenChannel = std::function<Result<std::unique_ptr<disk::Channel>>(uring::Loop& loop)>;

  Image(const disk::DiskInfo& info, OpenChannel open_channel)
      : info_(info), open_channel_(std::move(open_channel)) {}
  static Result<Image> open_file(const Options& options);
  static Result<Image> make_null(std::string_view size, const Options& options);

  disk::DiskInfo info_;
  OpenChannel open_channel_;  // keeps the disk alive
};

}  // namespace guestio::app
