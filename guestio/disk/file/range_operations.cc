// SPDX-License-Identifier: MIT
#include "guestio/disk/file/range_operations.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/disk/file/errno_class.h"
#include "guestio/disk/guard/guarded_range.h"
#include "guestio/uring/awaitables.h"

namespace guestio::disk {

namespace {

constexpr std::size_t kZeroBytes = 65536;
alignas(kPageSize) constexpr std::array<std::byte, kZeroBytes> kZeroes{};

std::int32_t allocate_by_call(int fd, int mode, FileOffset offset, std::uint64_t length) noexcept {
  const int result =
      ::fallocate(fd, mode, static_cast<off_t>(offset.raw()), static_cast<off_t>(length));
  return result < 0 ? -errno : 0;
}

struct AlignedRange {
  FileOffset offset;
  std::uint64_t length;
};

/// The whole blocks inside a range.
AlignedRange align_inward(FileOffset offset, std::uint64_t length, ByteCount block) noexcept {
  const std::uint64_t start = align_up(offset.raw(), block.raw());
  const std::uint64_t end = align_down(offset.raw() + length, block.raw());
  return {FileOffset(start), end > start ? end - start : 0};
}

}  // namespace

task::Task<Result<>> RangeOperations::discard(Io& io) {
  const AlignedRange inner =
      align_inward(io.offset, io.length, context_.image.facts().range_alignment);
  if (inner.length == 0) co_return Result<>();
  GuardedRange guarded(context_.image.block_guard(), context_.loop, inner.offset, inner.length,
                       BlockGuard::Kind::kExclusive);
  if (context_.needs_guard()) co_await guarded.claim();
  const auto discarded = co_await allocate(FALLOC_FL_PUNCH_HOLE, inner.offset, inner.length);
  if (!discarded && discarded.error().kind != ErrorKind::kUnsupported) co_return discarded;
  if (io.durability != Durability::kStable) co_return Result<>();
  co_return co_await flushes_.flush();
}

task::Task<Result<>> RangeOperations::write_zeroes(Io& io) {
  const AlignedRange inner =
      align_inward(io.offset, io.length, context_.image.facts().range_alignment);
  const int rw_flags = to_rw_flags(io.durability);
  const std::uint64_t head = inner.length == 0 ? io.length : inner.offset.offset_from(io.offset);
  const std::uint64_t tail = io.length - head - inner.length;
  auto zeroed = co_await write_zero_bytes(io.offset, head, rw_flags);
  if (zeroed && inner.length != 0) {
    zeroed = co_await zero_aligned(inner.offset, inner.length, io.unmap, rw_flags);
  }
  if (zeroed) {
    const FileOffset tail_offset = io.offset.plus_unchecked(head + inner.length);
    zeroed = co_await write_zero_bytes(tail_offset, tail, rw_flags);
  }
  if (!zeroed || io.durability != Durability::kStable) co_return zeroed;
  co_return co_await flushes_.flush();
}

task::Task<Result<>> RangeOperations::secure_erase(Io& io) {
  GuardedRange guarded(context_.image.block_guard(), context_.loop, io.offset, io.length,
                       BlockGuard::Kind::kShared);
  if (context_.needs_guard()) co_await guarded.claim();
  const auto erased = co_await secure_erase_.erase(io.offset, io.length);
  if (!erased || io.durability != Durability::kStable) co_return erased;
  co_return co_await flushes_.flush();
}

task::Task<Result<>> RangeOperations::zero_aligned(FileOffset offset, std::uint64_t length,
                                                   Unmap unmap, int rw_flags) {
  Result<> zeroed = fail(ErrorKind::kUnsupported, "zero part of the image");
  {
    GuardedRange guarded(context_.image.block_guard(), context_.loop, offset, length,
                         BlockGuard::Kind::kExclusive);
    if (context_.needs_guard()) co_await guarded.claim();
    if (unmap == Unmap::kAllowed) {
      zeroed = co_await allocate(FALLOC_FL_PUNCH_HOLE, offset, length);
    }
    if (!zeroed && zeroed.error().kind == ErrorKind::kUnsupported) {
      zeroed = co_await allocate(FALLOC_FL_ZERO_RANGE, offset, length);
    }
  }
  if (zeroed || zeroed.error().kind != ErrorKind::kUnsupported) co_return zeroed;
  co_return co_await write_zero_bytes(offset, length, rw_flags);
}

task::Task<Result<>> RangeOperations::write_zero_bytes(FileOffset offset, std::uint64_t length,
                                                       int rw_flags) {
  // The cast is safe: a transfer to the file only reads its segments.
  const buf::IoBuffer zeroes{const_cast<std::byte*>(kZeroes.data()), kZeroes.size()};
  std::array<buf::IoBuffer, 16> segments;
  segments.fill(zeroes);
  while (length != 0) {
    const std::uint64_t part = std::min<std::uint64_t>(length, segments.size() * kZeroBytes);
    const PlannedTransfer::Window window{buf::SegmentCursor(segments), offset, part};
    const auto moved = co_await transfers_.transfer_window(Direction::kToFile, window, rw_flags);
    if (!moved) co_return moved;
    offset = offset.plus_unchecked(part);
    length -= part;
  }
  co_return Result<>();
}

task::Task<Result<>> RangeOperations::allocate(int mode, FileOffset offset, std::uint64_t length) {
  const int all_modes = mode | FALLOC_FL_KEEP_SIZE;
  ShortageRetry retry(context_.shortages);
  while (true) {
    std::int32_t result = 0;
    if (retry.is_call()) {
      ++context_.direct_calls;
      result = allocate_by_call(context_.file.fd(), all_modes, offset, length);
    } else {
      result = co_await uring::fallocate(context_.loop, context_.file, all_modes, offset,
                                         ByteCount(length));
    }
    // Before the shortages: a range in use (EBUSY) has other ways.
    if (is_unsupported(result)) co_return fail(ErrorKind::kUnsupported, "fallocate of the image");
    if (context_.should_retry(retry, result)) {
      (void)co_await uring::sleep(context_.loop, retry.pause());
      continue;
    }
    if (result < 0) co_return fail(Error::host(-result, "discard or zero part of the image"));
    co_return Result<>();
  }
}

}  // namespace guestio::disk
