// SPDX-License-Identifier: MIT
#include "guestio/disk/file/transfer_entry.h"

#include <algorithm>

namespace guestio::disk {

namespace {

// What one call moves at most (the kernel's MAX_RW_COUNT).
constexpr std::size_t kLargestTransfer = 0x7ffff000;

struct OperationCodes {
  int read, write, readv, writev;
};
constexpr OperationCodes kPlainCodes = {IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV,
                                        IORING_OP_WRITEV};
constexpr OperationCodes kFixedCodes = {IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED,
                                        uring::kOpReadvFixed, uring::kOpWritevFixed};

}  // namespace

void TransferEntry::apply_to(io_uring_sqe& entry) const noexcept {
  const OperationCodes& codes = piece ? kFixedCodes : kPlainCodes;
  const bool is_read = direction == Direction::kFromFile;
  if (segments.size() == 1) {
    // Without a list, which the kernel would have to fetch.
    const buf::IoBuffer& only = segments.front();
    ::io_uring_prep_rw(is_read ? codes.read : codes.write, &entry, -1, only.data,
                       static_cast<unsigned>(std::min(only.length, kLargestTransfer)),
                       offset.raw());
  } else {
    ::io_uring_prep_rw(is_read ? codes.readv : codes.writev, &entry, -1,
                       buf::as_iovecs(segments).data(), static_cast<unsigned>(segments.size()),
                       offset.raw());
  }
  entry.buf_index = piece.value_or(0);
  entry.rw_flags = rw_flags;
  file.apply_to(entry);
}

std::optional<std::uint16_t> find_registered_buffer(
    uring::RegisteredBuffers& fixed, std::span<const buf::IoBuffer> segments) noexcept {
  if (segments.size() > 1 && !fixed.supports_vectored_fixed()) return std::nullopt;
  const auto piece = fixed.find(segments.front().data, segments.front().length);
  if (!piece) return std::nullopt;
  for (const buf::IoBuffer& segment : segments.subspan(1)) {
    if (fixed.find(segment.data, segment.length) != piece) return std::nullopt;
  }
  fixed.count_operation();
  return piece;
}

}  // namespace guestio::disk
