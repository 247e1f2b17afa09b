// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "guestio/disk/disk.h"
#include "guestio/disk/file/channel_context.h"
#include "guestio/disk/file/fast_path.h"
#include "guestio/disk/file/image_file.h"
#include "guestio/disk/file/slow_path.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// One thread's channel to a FileDisk: dispatches requests to the fast path, for well-aligned reads
/// and writes, or to the slow path, for everything else.
class FileChannel final : public Channel {
 public:
  /// Errors: host.
  static Result<std::unique_ptr<FileChannel>> create(ImageFile& image, const DiskInfo& info,
                                                     uring::Loop& loop, ByteCount bounce_limit);
  FileChannel(const FileChannel&) = delete;
  FileChannel& operator=(const FileChannel&) = delete;

  void start(Io& io) noexcept override;
  Result<Lifetime> lifetime() override;
  [[nodiscard]] ChannelStatistics statistics() const noexcept override;

 private:
  FileChannel(ImageFile& image, const DiskInfo& info, uring::Loop& loop,
              buf::OpenBounceAccount bounce, std::unique_ptr<uring::IopollRing> iopoll_ring)
      : context_(image, info, loop, std::move(bounce)),
        slow_path_(context_),
        fast_path_(context_, slow_path_, std::move(iopoll_ring)) {}

  [[nodiscard]] bool try_fast_path(Io& io) noexcept;
  void submit_early() noexcept;

  ChannelContext context_;
  SlowPath slow_path_;
  FastPath fast_path_;
};

}  // namespace guestio::disk
