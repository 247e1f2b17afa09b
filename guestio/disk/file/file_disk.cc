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
#include "guestio/disk/file/image_format.h"
#include "guestio/disk/file/lifetime.h"
#include "guestio/disk/file/polled_file.h"

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

/// The image's two descriptors, the first of which may come later. Claims hang on one that no ring
/// ever sees: a ring that dies with its process lets go of its files some time later, and a
/// successor must not find the image busy.
struct OpenImage {
  UniqueFd claim;
  UniqueFd io;
};

int access_flags(ImageAccess use) noexcept {
  return O_CLOEXEC | (use == ImageAccess::kReadWrite ? O_RDWR : O_RDONLY);
}

/// The same file, whatever a path names by now.
std::string path_of(const UniqueFd& fd) { return fmt::format("/proc/self/fd/{}", fd.get()); }

Result<UniqueFd> open_claim(const std::string& path, ImageAccess use, const std::string& name) {
  const auto mode = ask_kind(path);
  if (!mode) return fail(mode.error());
  int flags = access_flags(use);
  // On a block device O_EXCL keeps mounted and otherwise claimed devices from being written to.
  if (S_ISBLK(*mode) && use == ImageAccess::kReadWrite) flags |= O_EXCL;
  UniqueFd fd(::open(path.c_str(), flags));
  if (!fd && errno == EBUSY) return fail(ErrorKind::kBusy, "open the device");
  if (!fd) return fail_host("open the image");
  if (auto locked = lock_image(fd.get(), use, name); !locked) return fail(locked.error());
  return fd;
}

Result<UniqueFd> open_unclaimed(const std::string& path, ImageAccess use) {
  if (const auto mode = ask_kind(path); !mode) return fail(mode.error());
  UniqueFd fd(::open(path.c_str(), access_flags(use)));
  if (!fd) return fail_host("open the image");
  return fd;
}

Result<OpenImage> open_image(const FileDiskOptions& options) {
  auto first = options.claim_mode == ClaimMode::kWhileOpen
                   ? open_claim(options.path, options.use, options.subject())
                   : open_unclaimed(options.path, options.use);
  if (!first) return fail(first.error());
  int flags = access_flags(options.use);
  if (options.caching == Caching::kDirect) flags |= O_DIRECT;
  UniqueFd io(::open(path_of(*first).c_str(), flags));
  if (options.claim_mode == ClaimMode::kWhileInUse) first->reset();
  if (io) return OpenImage{std::move(*first), std::move(io)};
  if (errno == EINVAL && options.caching == Caching::kDirect) {
    return fail(ErrorKind::kUnsupported, "direct I/O on this file (--buffered goes without)");
  }
  return fail_host("open the image");
}

/// Whether two descriptors are of one file.
bool is_same_file(const UniqueFd& a, const UniqueFd& b) noexcept {
  struct stat first{};
  struct stat second{};
  return ::fstat(a.get(), &first) == 0 && ::fstat(b.get(), &second) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino &&
         first.st_rdev == second.st_rdev;
}

/// Ok when another process' files are what `options` would have opened.
Result<> check_snapshot(const FileDiskOptions& options, const DiskSnapshot& state) {
  const auto mode = ask_kind(path_of(state.io));
  if (!mode) return fail(mode.error());
  const int flags = ::fcntl(state.io.get(), F_GETFL);
  if (flags < 0) return fail_host("ask how the image is open");
  const bool is_direct = (flags & O_DIRECT) != 0;
  if (is_direct != (options.caching == Caching::kDirect) ||
      (flags & O_ACCMODE) != (access_flags(options.use) & O_ACCMODE)) {
    return fail(ErrorKind::kInvalidArgument, "how the image is open",
                static_cast<std::uint64_t>(flags));
  }
  if (state.claim ? !is_same_file(state.claim, state.io)
                  : options.claim_mode == ClaimMode::kWhileOpen) {
    return fail(ErrorKind::kInvalidArgument, "the claim to the image");
  }
  return {};
}

Result<DiskInfo> describe(int fd, const FileFacts& facts, const FileDiskOptions& options) {
  if (auto checked = check_block_size(options.block_size); !checked) return fail(checked.error());
  const std::uint64_t block = options.block_size.raw();
  // The last blocks of direct I/O must not reach behind the end: a write would make the file grow.
  const std::uint64_t direct_block = facts.direct.block();
  if (direct_block > Sector::kSize && !is_aligned(facts.size.raw(), direct_block)) {
    return fail(ErrorKind::kMisaligned, "the image's size for direct I/O (--buffered goes without)",
                facts.size.raw(), direct_block);
  }
  DiskInfo info;
  info.size = ByteCount(align_down(facts.size.raw(), block));
  if (info.size != facts.size) {
    log::warning("{}: the image's last {} bytes are no whole block of {}: hidden from the guest",
                 options.subject(), facts.size.raw() - info.size.raw(), block);
  }
  info.block_size = options.block_size;
  info.physical_block_size =
      ByteCount(std::max({block, facts.physical_block_size.raw(), direct_block}));
  info.is_read_only = options.use == ImageAccess::kRead;
  if (!info.is_read_only) {
    const RangeSupport support = probe_range_operations(fd, facts);
    info.discard = support.discard;
    info.write_zeroes = support.write_zeroes;
    info.secure_erase = support.secure_erase;
  }
  return info;
}

/// Only a file that takes any memory may have its bytes copied by the kernel.
bool choose_placement(int fd, const FileFacts& facts, const FileDiskOptions& options,
                      bool is_memory) {
  if (options.bounce_reads != BounceReads::kMeasured) {
    return options.bounce_reads == BounceReads::kAlways;
  }
  const bool may_be_copied = is_memory || options.caching == Caching::kBuffered;
  return may_be_copied && facts.direct.memory_alignment == 1 &&
         are_misaligned_reads_slow(fd, facts.size.raw());
}

Completion choose_completion(int fd, const FileFacts& facts, const FileDiskOptions& options) {
  if (options.completion == Completion::kInterrupt) return Completion::kInterrupt;
  const Result<> able =
      options.caching == Caching::kDirect
          ? check_polled_reads(fd, facts.size.raw(), facts.direct.block())
          : fail(ErrorKind::kUnsupported, "polling with --buffered, which asks no device");
  if (able) return Completion::kPolled;
  log::warning("{}: --iopoll is left out, completions come by interrupt: {}", options.subject(),
               able.error().to_string());
  return Completion::kInterrupt;
}

}  // namespace

FileDisk::FileDisk(UniqueFd claim, UniqueFd io, const FileFacts& facts, const DiskInfo& info,
                   const FileDiskOptions& options) noexcept
    : name_(options.subject()),
      claim_mode_(options.claim_mode),
      claim_(std::move(claim)),
      fd_(std::move(io)),
      facts_(facts),
      info_(info),
      calls_pay_(are_direct_calls_faster(fd_.get(), facts.size.raw(), facts.direct.block())),
      bounces_reads_(choose_placement(fd_.get(), facts, options, calls_pay_)),
      completion_(choose_completion(fd_.get(), facts, options)),
      bounce_registration_(options.bounce_registration),
      caching_(options.caching),
      lifetime_(find_lifetime(fd_.get())) {
  info_.has_lifetime = lifetime_.has_value();
  if (calls_pay_)
    log::debug("{}: the image is memory: it is read and written without the ring", name_);
  if (bounces_reads_) log::debug("{}: reads to memory off by less than 16 bytes are copied", name_);
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
  return std::unique_ptr<FileDisk>(
      new FileDisk(std::move(image->claim), std::move(image->io), *facts, *info, options));
}

Result<std::unique_ptr<FileDisk>> FileDisk::take_over(const FileDiskOptions& options,
                                                      DiskSnapshot snapshot) {
  if (auto checked = check_snapshot(options, snapshot); !checked) return fail(checked.error());
  auto facts = probe_file(snapshot.io.get());
  if (!facts) return fail(facts.error());
  // The guest was told of this size. A file that has changed since is refresh_size()'s concern.
  facts->size = snapshot.size;
  const auto info = describe(snapshot.io.get(), *facts, options);
  if (!info) return fail(info.error());
  if (info->size != snapshot.size) {
    return fail(ErrorKind::kInvalidArgument, "the image's size", snapshot.size.raw());
  }
  std::unique_ptr<FileDisk> self(
      new FileDisk(std::move(snapshot.claim), std::move(snapshot.io), *facts, *info, options));
  self->flush_errno_ = snapshot.flush_errno;
  return self;
}

Result<DiskSnapshot> FileDisk::snapshot() const {
  auto io = duplicate_fd(fd_);
  if (!io) return fail(io.error());
  auto claim = duplicate_fd(claim_);
  if (!claim) return fail(claim.error());
  return DiskSnapshot{std::move(*io), std::move(*claim), info_.size, flush_errno_};
}

Result<> FileDisk::restore(DiskSnapshot latest) {
  if (claim_mode_ == ClaimMode::kWhileInUse) {
    if (latest.claim && !is_same_file(latest.claim, fd_)) {
      return fail(ErrorKind::kInvalidArgument, "the claim to the image");
    }
    claim_ = std::move(latest.claim);
  }
  flush_errno_ = latest.flush_errno;
  return {};
}

Result<> FileDisk::claim() {
  if (claim_mode_ == ClaimMode::kWhileOpen || claim_) return {};
  auto claimed = open_claim(
      path_of(fd_), info_.is_read_only ? ImageAccess::kRead : ImageAccess::kReadWrite, name_);
  if (!claimed) return fail(claimed.error());
  claim_ = std::move(*claimed);
  return {};
}

void FileDisk::release() noexcept {
  if (claim_mode_ == ClaimMode::kWhileOpen || !claim_) return;
  const int result = info_.is_read_only ? 0 : ::fdatasync(fd_.get());
  if (auto flushed = check_flush(result == 0 ? 0 : -errno); !flushed) {
    log::error("{}: the image is given to others before all is on the disk: {}", name_,
               flushed.error().to_string());
  }
  claim_.reset();
}

Result<> FileDisk::check_flush(std::int32_t result) noexcept {
  constexpr const char* kWhat = "flush the image";
  if (caching_ == Caching::kDirect) {
    if (result < 0) return fail(Error::host(-result, kWhat));
    return {};
  }
  int expected = 0;
  if (result < 0 && flush_errno_.compare_exchange_strong(expected, -result)) {
    log::error("{}: data may be lost, no flush succeeds until the image is opened anew: {}", name_,
               Error::host(-result, kWhat).to_string());
  }
  const int flush_errno = flush_errno_.load();
  if (flush_errno == 0) return {};
  return fail(Error{ErrorKind::kDataLost, flush_errno, kWhat, 0, 0});
}

std::int32_t FileDisk::flush_by_call() const noexcept {
  const UniqueFd& fd = is_cached() && claim_ ? claim_ : fd_;
  return ::fdatasync(fd.get()) == 0 ? 0 : -errno;
}

void FileDisk::report_shortage(int error_number) noexcept {
  log::rate_limited_warning(
      shortage_log_,
      "{}: the host is short of memory or threads: {}; I/O is tried again, then done by the "
      "queue's own thread, which delays the thread's other disks: raise the process's limits "
      "(RLIMIT_NPROC, pids.max) or free memory",
      name_, Error::host(error_number, "io_uring").to_string());
}

Result<ByteCount> FileDisk::refresh_size() {
  const auto present = query_size(fd_.get());
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
