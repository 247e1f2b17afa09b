// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/log.h"
#include "guestio/disk/file/file_channel.h"
#include "guestio/disk/file/image_file.h"
#include "guestio/disk/file/image_lock.h"
#include "guestio/disk/probe/file_limits.h"
#include "guestio/disk/probe/image_format.h"

namespace guestio::disk {

namespace {

/// Before open(), which may block or do harm on a FIFO or another kind of device.
Result<mode_t> query_kind(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return fail_host("open the image");
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return fail(ErrorKind::kUnsupported,
                S_ISDIR(status.st_mode) ? "an image that is a directory"
                                        : "an image that is neither a file nor a block device");
  }
  return status.st_mode;
}

/// The two descriptors of ImageFile.
struct OpenImage {
  UniqueFd claim;
  UniqueFd io;
};

int access_flags(ImageAccess access) noexcept {
  return O_CLOEXEC | (access == ImageAccess::kReadWrite ? O_RDWR : O_RDONLY);
}

/// Names the open file even after a rename.
std::string path_of(const UniqueFd& fd) { return fmt::format("/proc/self/fd/{}", fd.get()); }

Result<UniqueFd> open_claim(const std::string& path, ImageAccess access, const std::string& name) {
  const auto mode = query_kind(path);
  if (!mode) return fail(mode.error());
  int flags = access_flags(access);
  // On a block device O_EXCL excludes mounted and otherwise claimed devices.
  if (S_ISBLK(*mode) && access == ImageAccess::kReadWrite) flags |= O_EXCL;
  UniqueFd fd(::open(path.c_str(), flags));
  if (!fd && errno == EBUSY) return fail(ErrorKind::kBusy, "open the device");
  if (!fd) return fail_host("open the image");
  if (auto locked = lock_image(fd.get(), access, name); !locked) return fail(locked.error());
  return fd;
}

Result<UniqueFd> open_unclaimed(const std::string& path, ImageAccess access) {
  if (const auto mode = query_kind(path); !mode) return fail(mode.error());
  UniqueFd fd(::open(path.c_str(), access_flags(access)));
  if (!fd) return fail_host("open the image");
  return fd;
}

Result<OpenImage> open_image(const FileDiskOptions& options) {
  auto first = options.claim_mode == ClaimMode::kWhileOpen
                   ? open_claim(options.path, options.access, options.subject())
                   : open_unclaimed(options.path, options.access);
  if (!first) return fail(first.error());
  int flags = access_flags(options.access);
  if (options.caching == Caching::kDirect) flags |= O_DIRECT;
  UniqueFd io(::open(path_of(*first).c_str(), flags));
  if (options.claim_mode == ClaimMode::kWhileInUse) first->reset();
  if (io) return OpenImage{std::move(*first), std::move(io)};
  if (errno == EINVAL && options.caching == Caching::kDirect) {
    return fail(ErrorKind::kUnsupported, "direct I/O on this file (use --buffered)");
  }
  return fail_host("open the image");
}

bool is_same_file(const UniqueFd& a, const UniqueFd& b) noexcept {
  struct stat first{};
  struct stat second{};
  return ::fstat(a.get(), &first) == 0 && ::fstat(b.get(), &second) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino &&
         first.st_rdev == second.st_rdev;
}

/// Whether the files of another process are those that `options` would open.
Result<> check_snapshot(const FileDiskOptions& options, const DiskSnapshot& snapshot) {
  const auto mode = query_kind(path_of(snapshot.io));
  if (!mode) return fail(mode.error());
  const int flags = ::fcntl(snapshot.io.get(), F_GETFL);
  if (flags < 0) return fail_host("query the open flags of the image");
  const bool is_direct = (flags & O_DIRECT) != 0;
  if (is_direct != (options.caching == Caching::kDirect) ||
      (flags & O_ACCMODE) != (access_flags(options.access) & O_ACCMODE)) {
    return fail(ErrorKind::kInvalidArgument, "open flags of the image",
                static_cast<std::uint64_t>(flags));
  }
  if (snapshot.claim ? !is_same_file(snapshot.claim, snapshot.io)
                     : options.claim_mode == ClaimMode::kWhileOpen) {
    return fail(ErrorKind::kInvalidArgument, "claim of another file");
  }
  return {};
}

Result<DiskInfo> describe(int fd, const FileFacts& facts, const FileDiskOptions& options) {
  if (auto checked = check_block_size(options.block_size); !checked) return fail(checked.error());
  const std::uint64_t block = options.block_size.raw();
  // A direct write of a last block past the end would extend the file.
  const std::uint64_t direct_block = facts.direct.block();
  if (direct_block > Sector::kSize && !is_aligned(facts.size.raw(), direct_block)) {
    return fail(ErrorKind::kMisaligned, "the image's size for direct I/O (use --buffered)",
                facts.size.raw(), direct_block);
  }
  DiskInfo info;
  info.size = ByteCount(align_down(facts.size.raw(), block));
  if (info.size != facts.size) {
    log::warning("{}: partial last block hidden from the guest ({} bytes, block size {})",
                 options.subject(), facts.size.raw() - info.size.raw(), block);
  }
  info.block_size = options.block_size;
  info.physical_block_size =
      ByteCount(std::max({block, facts.physical_block_size.raw(), direct_block}));
  info.is_read_only = options.access == ImageAccess::kReadOnly;
  if (!info.is_read_only) {
    const RangeSupport support = probe_range_operations(fd, facts);
    info.discard = support.discard;
    info.write_zeroes = support.write_zeroes;
    info.secure_erase = support.secure_erase;
  }
  return info;
}

}  // namespace

FileDisk::FileDisk(ClaimMode claim_mode, std::unique_ptr<ImageFile> image,
                   const DiskInfo& info) noexcept
    : claim_mode_(claim_mode), image_(std::move(image)), info_(info) {}

FileDisk::~FileDisk() = default;

std::unique_ptr<FileDisk> FileDisk::make(UniqueFd claim, UniqueFd io, const FileFacts& facts,
                                         DiskInfo info, const FileDiskOptions& options) {
  auto image = std::make_unique<ImageFile>(std::move(claim), std::move(io), facts, options);
  info.has_lifetime = image->lifetime_folder().has_value();
  return std::unique_ptr<FileDisk>(new FileDisk(options.claim_mode, std::move(image), info));
}

Result<std::unique_ptr<FileDisk>> FileDisk::open(const FileDiskOptions& options) {
  auto image = open_image(options);
  if (!image) return fail(image.error());
  const auto size = query_size(image->io.get());
  if (!size) return fail(size.error());
  if (options.format_check == FormatCheck::kRefuseForeign) {
    if (auto raw = check_raw_format(image->io.get(), *size); !raw) return fail(raw.error());
  }
  const auto facts = probe_file(image->io.get());
  if (!facts) return fail(facts.error());
  const auto info = describe(image->io.get(), *facts, options);
  if (!info) return fail(info.error());
  if (info->size == ByteCount(0)) {
    return fail(ErrorKind::kInvalidArgument, "an image of less than one block, size in bytes",
                size->raw());
  }
  return make(std::move(image->claim), std::move(image->io), *facts, *info, options);
}

Result<std::unique_ptr<FileDisk>> FileDisk::take_over(const FileDiskOptions& options,
                                                      DiskSnapshot snapshot) {
  if (auto checked = check_snapshot(options, snapshot); !checked) return fail(checked.error());
  auto facts = probe_file(snapshot.io.get());
  if (!facts) return fail(facts.error());
  // The guest knows this size. refresh_size() finds a file that changed since.
  facts->size = snapshot.size;
  const auto info = describe(snapshot.io.get(), *facts, options);
  if (!info) return fail(info.error());
  if (info->size != snapshot.size) {
    return fail(ErrorKind::kInvalidArgument, "the image's size", snapshot.size.raw());
  }
  auto self = make(std::move(snapshot.claim), std::move(snapshot.io), *facts, *info, options);
  self->image_->set_flush_errno(snapshot.flush_errno);
  return self;
}

Result<DiskSnapshot> FileDisk::snapshot() const {
  auto io = duplicate_fd(image_->io());
  if (!io) return fail(io.error());
  auto claim = duplicate_fd(image_->claim());
  if (!claim) return fail(claim.error());
  return DiskSnapshot{std::move(*io), std::move(*claim), info_.size, image_->flush_errno(), {}};
}

Result<> FileDisk::restore(DiskSnapshot latest) {
  if (claim_mode_ == ClaimMode::kWhileInUse) {
    if (latest.claim && !is_same_file(latest.claim, image_->io())) {
      return fail(ErrorKind::kInvalidArgument, "claim of another file");
    }
    image_->set_claim(std::move(latest.claim));
  }
  image_->set_flush_errno(latest.flush_errno);
  return {};
}

Result<> FileDisk::claim() {
  if (claim_mode_ == ClaimMode::kWhileOpen || image_->claim()) return {};
  const auto access = info_.is_read_only ? ImageAccess::kReadOnly : ImageAccess::kReadWrite;
  auto claimed = open_claim(path_of(image_->io()), access, image_->name());
  if (!claimed) return fail(claimed.error());
  image_->set_claim(std::move(*claimed));
  return {};
}

void FileDisk::release() noexcept {
  if (claim_mode_ == ClaimMode::kWhileOpen || !image_->claim()) return;
  // The next owner cannot flush this host's page cache.
  const int result = info_.is_read_only ? 0 : ::fdatasync(image_->io().get());
  if (auto flushed = image_->check_flush(result == 0 ? 0 : -errno); !flushed) {
    log::error("{}: flush failed at the release of the image to other processes: {}",
               image_->name(), flushed.error().to_string());
  }
  image_->set_claim(UniqueFd());
}

Result<ByteCount> FileDisk::refresh_size() {
  const auto present = query_size(image_->io().get());
  if (!present) return fail(present.error());
  const std::uint64_t direct_block = limits().block();
  if (direct_block > Sector::kSize && !is_aligned(present->raw(), direct_block)) {
    return fail(ErrorKind::kMisaligned, "the image's size for direct I/O", present->raw(),
                direct_block);
  }
  const ByteCount size(align_down(present->raw(), info_.block_size.raw()));
  if (size < ByteCount(info_.size)) {
    return fail(ErrorKind::kUnsupported, "an image that shrank", size.raw(), info_.size.raw());
  }
  info_.size = size;
  return size;
}

Completion FileDisk::completion() const noexcept { return image_->completion(); }

const buf::DirectIoLimits& FileDisk::limits() const noexcept { return image_->limits(); }

Result<std::unique_ptr<Channel>> FileDisk::open_channel(uring::Loop& loop, ByteCount bounce_limit) {
  return FileChannel::create(*image_, info_, loop, bounce_limit);
}

}  // namespace guestio::disk
