// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/file_limits.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/disk/probe/misaligned_transfers.h"

namespace guestio::disk {

namespace {

struct Alignments {
  std::uint32_t memory;
  std::uint32_t offset;
};

std::optional<Alignments> query_statx(int fd) {
  struct statx status{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0) return std::nullopt;
  const bool is_known = (status.stx_mask & STATX_DIOALIGN) != 0 &&
                        std::has_single_bit(status.stx_dio_mem_align) &&
                        std::has_single_bit(status.stx_dio_offset_align);
  if (!is_known) return std::nullopt;
  return Alignments{status.stx_dio_mem_align, status.stx_dio_offset_align};
}

std::optional<Alignments> query_block_device(int fd) {
  int logical = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) != 0 || logical <= 0) return std::nullopt;
  const auto size = static_cast<std::uint32_t>(logical);
  return Alignments{size, size};
}

bool can_read(int fd, std::byte* to, std::size_t size, off_t at) noexcept {
  return ::pread(fd, to, size, at) >= 0;
}

/// For files without reported limits (tmpfs, FUSE): the smallest alignment with successful reads.
/// The buffer crosses a page boundary, because kernels accept misaligned memory inside one page.
std::optional<Alignments> find_alignments_by_reads(int fd) {
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

Result<buf::DirectIoLimits> query_direct_limits(int fd, bool is_block_device) {
  auto found = query_statx(fd);
  if (!found && is_block_device) found = query_block_device(fd);
  if (!found) found = find_alignments_by_reads(fd);
  if (!found) return fail(ErrorKind::kUnsupported, "query the limits of direct I/O");
  if (found->offset > kPageSize || found->memory > kPageSize) {
    return fail(ErrorKind::kUnsupported, "direct I/O in blocks larger than a page");
  }
  buf::DirectIoLimits limits;
  limits.memory_alignment = found->memory;
  limits.offset_alignment = found->offset;
  limits.length_alignment = found->offset;
  return limits;
}

std::uint64_t read_queue_attribute(dev_t device, const char* name) {
  // A partition has the attributes of its disk.
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
    return fail(ErrorKind::kUnsupported, "an image that is neither a file nor a block device");
  }
  std::uint64_t size = 0;
  if (::ioctl(fd, BLKGETSIZE64, &size) != 0) return fail_host("query the device's size");
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
    if (::ioctl(fd, BLKSSZGET, &logical) != 0) return fail_host("query the device's block size");
    facts.range_alignment = ByteCount(static_cast<std::uint64_t>(logical));
    unsigned physical = 0;
    if (::ioctl(fd, BLKPBSZGET, &physical) == 0) facts.physical_block_size = ByteCount(physical);
  } else {
    // The file system's block: smaller writes are read-modify-write.
    const auto block = static_cast<std::uint64_t>(status.st_blksize);
    if (std::has_single_bit(block) && block <= kPageSize) {
      facts.physical_block_size = ByteCount(block);
    }
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail_host("query the open flags of the image");
  if ((flags & O_DIRECT) != 0) {
    auto limits = query_direct_limits(fd, facts.is_block_device);
    if (!limits) return fail(limits.error());
    facts.direct = *limits;
    if (facts.direct.memory_alignment < kPageSize &&
        (is_on_zram(fd) || corrupts_misaligned_reads(fd, facts.direct, facts.size.raw()))) {
      facts.direct.memory_alignment = kPageSize;
    }
  }
  return facts;
}

bool can_secure_erase(int fd) noexcept {
  // EINVAL for a range inside a sector: the device can erase. Other devices have other errors for
  // any range.
  std::array<std::uint64_t, 2> range = {1, Sector::kSize};
  return ::ioctl(fd, BLKSECDISCARD, range.data()) != 0 && errno == EINVAL;
}

RangeSupport probe_range_operations(int fd, const FileFacts& facts) {
  // Large, but short enough for a worker thread.
  constexpr ByteCount kMaxDiscard(std::uint64_t{1} << 30);
  constexpr ByteCount kMaxWriteZeroes(std::uint64_t{64} << 20);
  RangeSupport support;
  // Writes of zeroes always work.
  support.write_zeroes = RangeLimits{kMaxWriteZeroes, facts.physical_block_size};
  if (facts.is_block_device) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) return support;
    if (can_secure_erase(fd)) support.secure_erase = {kMaxDiscard, facts.range_alignment};
    if (read_queue_attribute(status.st_rdev, "discard_max_bytes") == 0) return support;
    const std::uint64_t granularity = read_queue_attribute(status.st_rdev, "discard_granularity");
    support.discard =
        RangeLimits{kMaxDiscard, ByteCount(std::max<std::uint64_t>(granularity, 512))};
    return support;
  }
  const auto past_end = static_cast<off_t>(align_up(facts.size.raw(), std::uint64_t{kPageSize}));
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, past_end, kPageSize) == 0) {
    support.discard = RangeLimits{kMaxDiscard, facts.physical_block_size};
  }
  return support;
}

}  // namespace guestio::disk
