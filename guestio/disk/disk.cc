// SPDX-License-Identifier: MIT
#include "guestio/disk/disk.h"

#include <bit>

#include "guestio/base/align.h"

namespace guestio::disk {

const char* to_text(IoKind kind) noexcept {
  switch (kind) {
    case IoKind::kRead: return "read";
    case IoKind::kWrite: return "write";
    case IoKind::kFlush: return "flush";
    case IoKind::kDiscard: return "discard";
    case IoKind::kWriteZeroes: return "write zeroes";
    case IoKind::kSecureErase: return "secure erase";
  }
  return "unknown";
}

namespace {

Result<> check_range(const DiskInfo& info, const Io& io) noexcept {
  if (!fits_within(io.offset.raw(), io.length, info.size.raw())) {
    return fail(ErrorKind::kOutOfRange, to_text(io.kind), io.offset.raw(), info.size.raw());
  }
  const std::uint64_t unit =
      io.granularity == Granularity::kSectors ? Sector::kSize : info.block_size.raw();
  if (!is_aligned(io.offset.raw() | io.length, unit)) {
    return fail(ErrorKind::kMisaligned, to_text(io.kind), io.offset.raw() | io.length, unit);
  }
  return {};
}

Result<> check_range_operation(const DiskInfo& info, const Io& io,
                               const std::optional<RangeLimits>& limits) noexcept {
  if (!limits) return fail(ErrorKind::kUnsupported, to_text(io.kind));
  if (io.length > limits->max_bytes.raw()) {
    return fail(ErrorKind::kTooLarge, to_text(io.kind), io.length, limits->max_bytes.raw());
  }
  return check_range(info, io);
}

}  // namespace

Result<> Disk::restore(DiskSnapshot) { return {}; }

Result<> check_block_size(ByteCount size) noexcept {
  if (std::has_single_bit(size.raw()) && size.raw() >= Sector::kSize && size.raw() <= kPageSize) {
    return {};
  }
  return fail(ErrorKind::kInvalidArgument, "block size (512, 1024, 2048 or 4096)", size.raw());
}

Result<> check_io(const DiskInfo& info, const Io& io) noexcept {
  const bool modifies = io.kind != IoKind::kRead && io.kind != IoKind::kFlush;
  if (modifies && info.is_read_only) return fail(ErrorKind::kReadOnly, to_text(io.kind));
  switch (io.kind) {
    case IoKind::kFlush: return {};
    case IoKind::kRead:
    case IoKind::kWrite:
      if (io.buffers.size() != io.length) {
        return fail(ErrorKind::kInvalidArgument, "length of the buffers", io.buffers.size());
      }
      return check_range(info, io);
    case IoKind::kDiscard: return check_range_operation(info, io, info.discard);
    case IoKind::kWriteZeroes: return check_range_operation(info, io, info.write_zeroes);
    case IoKind::kSecureErase: {
      const auto checked = check_range_operation(info, io, info.secure_erase);
      if (!checked) return checked;
      // The remainders at the ends would stay readable.
      const std::uint64_t unit = info.secure_erase->alignment.raw();
      if (is_aligned(io.offset.raw() | io.length, unit)) return {};
      return fail(ErrorKind::kMisaligned, to_text(io.kind), io.offset.raw() | io.length, unit);
    }
  }
  return fail(ErrorKind::kUnsupported, "disk operation");
}

}  // namespace guestio::disk
