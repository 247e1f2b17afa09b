// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "guestio/base/log.h"
#include "guestio/disk/file/direct_calls.h"
#include "guestio/disk/file/file_channel.h"

namespace guestio::disk {

namespace {

/// Opening a FIFO or a device of another kind could block or do harm: look first.
Result<mode_t> ask_kind(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return fail_host("open the image");
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return fail(ErrorKind::kUnsupported, S_ISDIR(status.st_mode)
                                             ? "a directory as an image"
                                             : "what is neither a file nor a block device");
  }
  return status.st_mode;
}

/// The image's two descriptors. Claims hang on one that no ring ever sees: a ring that dies with
/// its process lets go of its files some time later, and a successor must not find the image busy.
struct OpenImage {
  UniqueFd claim;
  UniqueFd io;
};

Result<UniqueFd> open_claim(const FileDiskOptions& options) {
  const auto mode = ask_kind(options.path);
  if (!mode) return fail(mode.error());
  int flags = O_CLOEXEC | (options.use == ImageUse::kReadWrite ? O_RDWR : O_RDONLY);
  // On a block device O_EXCL keeps mounted and otherwise claimed devices from being written to.
  if (S_ISBLK(*mode) && options.use == ImageUse::kReadWrite) flags |= O_EXCL;
  UniqueFd fd(::open(options.path.c_str(), flags));
  if (!fd && errno == EBUSY) return fail(ErrorKind::kBusy, "open the device");
  if (!fd) return fail_host("open the image");
  if (auto locked = lock_image(fd.get(), options.use); !locked) return fail(locked.error());
  return fd;
}

Result<OpenImage> open_image(const FileDiskOptions& options) {
  auto claim = open_claim(options);
  if (!claim) return fail(claim.error());
  int flags = O_CLOEXEC | (options.use == ImageUse::kReadWrite ? O_RDWR : O_RDONLY);
  if (options.caching == Caching::kDirect) flags |= O_DIRECT;
  // The same file, whatever the path names by now.
  UniqueFd io(::open(fmt::format("/proc/self/fd/{}", claim->get()).c_str(), flags));
  if (io) return OpenImage{std::move(*claim), std::move(io)};
  if (errno == EINVAL && options.caching == Caching::kDirect) {
    return fail(ErrorKind::kUnsupported, "direct I/O on this file (--buffered goes without)");
  }
  return fail_host("open the image");
}

Result<DiskInfo> describe(int fd, const FileFacts& facts, const FileDiskOptions& options) {
  const std::uint64_t block = options.block_size.raw();
  if (!std::has_single_bit(block) || block < Sector::kSize || block > kPageSize) {
    return fail(ErrorKind::kInvalidArgument, "block size (512, 1024, 2048 or 4096)", block);
  }
  // The last blocks of direct I/O must not reach behind the end: a write would make the file grow.
  const std::uint64_t direct_block = facts.direct.block();
  if (direct_block > Sector::kSize && !is_aligned(facts.size.raw(), direct_block)) {
    return fail(ErrorKind::kMisaligned, "the image's size for direct I/O (--buffered goes without)",
                facts.size.raw(), direct_block);
  }
  DiskInfo info;
  info.size = ByteCount(align_down(facts.size.raw(), block));
  if (info.size != facts.size) {
    log::warning("the image's last {} bytes are no whole block of {}: the guest does not see them",
                 facts.size.raw() - info.size.raw(), block);
  }
  info.block_size = options.block_size;
  info.physical_block_size =
      ByteCount(std::max({block, facts.physical_block_size.raw(), direct_block}));
  info.is_read_only = options.use == ImageUse::kRead;
  if (!info.is_read_only) {
    const RangeSupport support = probe_range_operations(fd, facts);
    info.discard = support.discard;
    info.write_zeroes = support.write_zeroes;
  }
  return info;
}

}  // namespace

FileDisk::FileDisk(UniqueFd claim, UniqueFd io, const FileFacts& facts, const DiskInfo& info,
                   const FileDiskOptions& options) noexcept
    : claim_(std::move(claim)),
      fd_(std::move(io)),
      facts_(facts),
      info_(info),
      calls_pay_(direct_calls_pay(fd_.get(), facts.size.raw(), facts.direct.block())),
      bounce_memory_(options.bounce_memory),
      caching_(options.caching) {
  if (calls_pay_) log::debug("the image is memory: it is read and written without the ring");
}

Result<std::unique_ptr<FileDisk>> FileDisk::open(const FileDiskOptions& options) {
  auto image = open_image(options);
  if (!image) return fail(image.error());
  const auto facts = probe_file(image->io.get());
  if (!facts) return fail(facts.error());
  const auto info = describe(image->io.get(), *facts, options);
  if (!info) return fail(info.error());
  return std::unique_ptr<FileDisk>(
      new FileDisk(std::move(image->claim), std::move(image->io), *facts, *info, options));
}

Result<> FileDisk::judge_flush(std::int32_t result) noexcept {
  constexpr const char* kWhat = "flush the image";
  if (caching_ == Caching::kDirect) {
    if (result < 0) return fail(Error::host(-result, kWhat));
    return {};
  }
  int expected = 0;
  if (result < 0 && lost_by_.compare_exchange_strong(expected, -result)) {
    log::error("{}: data may be lost, no flush succeeds until the image is opened anew",
               Error::host(-result, kWhat).to_string());
  }
  const int lost_by = lost_by_.load();
  if (lost_by == 0) return {};
  return fail(Error{ErrorKind::kDataLost, lost_by, kWhat, 0, 0});
}

Result<ByteCount> FileDisk::notice_size() {
  const auto present = ask_size(fd_.get());
  if (!present) return fail(present.error());
  const std::uint64_t direct_block = facts_.direct.block();
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

Result<std::unique_ptr<Channel>> FileDisk::open_channel(uring::Loop& loop, ByteCount bounce_limit) {
  auto channel = FileChannel::create(*this, loop, bounce_limit);
  if (!channel) return fail(channel.error());
  return std::unique_ptr<Channel>(std::move(*channel));
}

}  // namespace guestio::disk
