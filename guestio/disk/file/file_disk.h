// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "guestio/base/unique_fd.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/file_disk_options.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

struct FileFacts;
class ImageFile;

/// A raw image: a regular file or a block device.
class FileDisk final : public Disk {
 public:
  ~FileDisk() override;

  /// Opens and claims the image and probes its abilities; modifies nothing in it.
  /// Errors: host (no such file, permission …), busy (in use by another process), unsupported
  /// (neither a file nor a block device; no direct I/O, with Caching::kBuffered as the answer),
  /// misaligned (size not in whole direct I/O blocks, same answer), invalid argument (block size;
  /// an image of less than one block), foreign format (unless FormatCheck::kNone), short transfer
  /// (of the reads that look for a signature).
  static Result<std::unique_ptr<FileDisk>> open(const FileDiskOptions& options);

  /// Opens the disk of another process from its snapshot, whatever the guest has written meanwhile.
  /// Requires: the options of that process; the path is for diagnostics only. Errors: as open(),
  /// without the format; invalid argument (files of other options).
  static Result<std::unique_ptr<FileDisk>> take_over(const FileDiskOptions& options,
                                                     DiskSnapshot snapshot);

  [[nodiscard]] const DiskInfo& info() const noexcept override { return info_; }
  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce_limit) override;
  Result<ByteCount> refresh_size() override;
  /// claim() and release() do nothing with ClaimMode::kWhileOpen.
  Result<> claim() override;
  void release() noexcept override;
  [[nodiscard]] Result<DiskSnapshot> snapshot() const override;
  Result<> restore(DiskSnapshot latest) override;

  /// Completion::kPolled only if asked for and supported.
  [[nodiscard]] Completion completion() const noexcept;
  [[nodiscard]] const buf::DirectIoLimits& limits() const noexcept;

 private:
  FileDisk(ClaimMode claim_mode, std::unique_ptr<ImageFile> image, const DiskInfo& info) noexcept;
  static std::unique_ptr<FileDisk> make(UniqueFd claim, UniqueFd io, const FileFacts& facts,
                                        DiskInfo info, const FileDiskOptions& options);

  const ClaimMode claim_mode_;
  const std::unique_ptr<ImageFile> image_;
  DiskInfo info_;  // constant except for the size
};

}  // namespace guestio::disk
