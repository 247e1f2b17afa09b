// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_limits.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <memory>
#include <optional>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/disk/file/misaligned_transfers.h"
#include "guestio/disk/file/secure_erase.h"

namespace guestio::disk {

namespace {

struct Alignments {
  std::uint32_t memory;
  std::uint32_t offset;
};

std::optional<Alignments> ask_statx(int fd) {
  struct statx status{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0) return std::nullopt;
  const bool is_known = (status.stx_mask & STATX_DIOALIGN) != 0 &&
                        std::has_single_bit(status.stx_dio_mem_align) &&
                        std::has_single_bit(status.stx_dio_offset_align);
  if (!is_known) return std::nullopt;
  return Alignments{status.stx_dio_mem_align, status.stx_dio_offset_align};
}

std::optional<Alignments> ask_block_device(int fd) {
  int logical = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) != 0 || logical <= 0) return std::nullopt;
  const auto size = static_cast<std::uint32_t>(logical);
  return Alignments{size, size};
}

bool can_read(int fd, std::byte* to, std::size_t size, off_t at) noexcept {
  return ::pread(fd, to, size, at) >= 0;
}

/// For files that tell nothing (tmpfs, FUSE): the least alignment whose reads succeed. The buffer
/// lies across a page boundary, because kernels let misaligned memory inside one page pass.
std::optional<Alignments> try_reads(int fd) {
  constexpr std::size_t kSpan = 4 * kPageSize;
  auto buffer = Mapping::anonymous(2 * kSpan);
  if (!buffer) return std::nullopt;
  for (const std::uint32_t offset : {1U, 512U, 4096U}) {
    for (const std::uint32_t memory : {1U, 512U, 4096U}) {
      std::byte* const to = buffer->data() + (memory % kPageSize);
      if (can_read(fd, to, align_up(std::size_t{2 * kPageSize}, std::size_t{offset}),
                   offset % 4096)) {
        return Alignments{memory, offset};
      }
    }
  }
  return std::nullopt;
}

Result<buf::DirectIoLimits> ask_direct_limits(int fd, bool is_block_device) {
  auto found = ask_statx(fd);
  if (!found && is_block_device) found = ask_block_device(fd);
  if (!found) found = try_reads(fd);
  if (!found) return fail(ErrorKind::kUnsupported, "find out the limits of direct I/O");
  if (found->offset > kPageSize || found->memory > kPageSize) {
    return fail(ErrorKind::kUnsupported, "direct I/O in blocks larger than a page");
  }
  buf::DirectIoLimits limits;
  limits.memory_alignment = found->memory;
  limits.offset_alignment = found->offset;
  limits.length_alignment = found->offset;
  return limits;
}

std::uint64_t ask_device_number(dev_t device, const char* name) {
  // A partition has its disk's.
  for (const char* const owner : {"", "../"}) {
    const auto path =
        fmt::format("/sys/dev/block/{}:{}/{}queue/{}", major(device), minor(device), owner, name);
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"),
                                                               &std::fclose);
    unsigned long long value = 0;
    if (file && std::fscanf(file.get(), "%llu", &value) == 1) return value;
  }
  return 0;
}

}  // namespace

Result<ByteCount> query_size(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return fail_host("stat the image");
  if (S_ISREG(status.st_mode)) return ByteCount(static_cast<std::uint64_t>(status.st_size));
  if (!S_ISBLK(status.st_mode)) {
    return fail(ErrorKind::kUnsupported, "an image must be a regular file or a block device");
  }
  std::uint64_t size = 0;
  if (::ioctl(fd, BLKGETSIZE64, &size) != 0) return fail_host("ask the device's size");
  return ByteCount(size);
}

Result<FileFacts> probe_file(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return fail_host("stat the image");
  const auto size = query_size(fd);
  if (!size) return fail(size.error());
  FileFacts facts;
  facts.size = *size;
  if (S_ISBLK(status.st_mode)) {
    facts.is_block_device = true;
    int logical = 0;
    if (::ioctl(fd, BLKSSZGET, &logical) != 0) return fail_host("ask the device's block size");
    facts.range_alignment = ByteCount(static_cast<std::uint64_t>(logical));
    unsigned physical = 0;
    if (::ioctl(fd, BLKPBSZGET, &physical) == 0) facts.physical_block_size = ByteCount(physical);
  } else {
    // A file system's own block: what it moves at once, reads before it writes less.
    const auto block = static_cast<std::uint64_t>(status.st_blksize);
    if (std::has_single_bit(block) && block <= kPageSize) {
      facts.physical_block_size = ByteCount(block);
    }
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail_host("ask how the image is open");
  if ((flags & O_DIRECT) != 0) {
    auto limits = ask_direct_limits(fd, facts.is_block_device);
    if (!limits) return fail(limits.error());
    facts.direct = *limits;
    if (facts.direct.memory_alignment < kPageSize &&
        (is_on_zram(fd) || corrupts_misaligned_reads(fd, facts.direct, facts.size.raw()))) {
      facts.direct.memory_alignment = kPageSize;
    }
  }
  return facts;
}

RangeSupport probe_range_operations(int fd, const FileFacts& facts) {
  // Large, but small enough that one request does not hold a worker thread for long.
  constexpr ByteCount kMaxDiscarded(std::uint64_t{1} << 30);
  constexpr ByteCount kMaxZeroed(std::uint64_t{64} << 20);
  RangeSupport support;
  // Zeroes can always be written.
  support.write_zeroes = RangeLimits{kMaxZeroed, facts.physical_block_size};
  if (facts.is_block_device) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) return support;
    if (can_secure_erase(fd)) support.secure_erase = {kMaxDiscarded, facts.range_alignment};
    if (ask_device_number(status.st_rdev, "discard_max_bytes") == 0) return support;
    const std::uint64_t granularity = ask_device_number(status.st_rdev, "discard_granularity");
    support.discard =
        RangeLimits{kMaxDiscarded, ByteCount(std::max<std::uint64_t>(granularity, 512))};
    return support;
  }
  const auto behind_end = static_cast<off_t>(align_up(facts.size.raw(), std::uint64_t{kPageSize}));
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind_end, kPageSize) == 0) {
    support.discard = RangeLimits{kMaxDiscarded, facts.physical_block_size};
  }
  return support;
}

}  // namespace guestio::disk
