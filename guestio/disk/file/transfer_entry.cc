// SPDX-License-Identifier: MIT
#include "guestio/disk/file/transfer_entry.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace guestio::disk {

namespace {

// The kernel's MAX_RW_COUNT.
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
  const OperationCodes& codes = registered ? kFixedCodes : kPlainCodes;
  const bool is_read = direction == Direction::kFromFile;
  if (segments.size() == 1) {
    // No list for the kernel to fetch.
    const buf::IoBuffer& only = segments.front();
    ::io_uring_prep_rw(is_read ? codes.read : codes.write, &entry, -1, only.data,
                       static_cast<unsigned>(std::min(only.length, kLargestTransfer)),
                       offset.raw());
  } else {
    ::io_uring_prep_rw(is_read ? codes.readv : codes.writev, &entry, -1,
                       buf::as_iovecs(segments).data(), static_cast<unsigned>(segments.size()),
                       offset.raw());
  }
  entry.buf_index = registered.value_or(0);
  entry.rw_flags = rw_flags;
  file.apply_to(entry);
}

std::optional<std::uint16_t> find_registered_buffer(
    uring::RegisteredBuffers& fixed, std::span<const buf::IoBuffer> segments) noexcept {
  if (segments.size() > 1 && !fixed.supports_vectored_fixed()) return std::nullopt;
  const auto buffer = fixed.find(segments.front().data, segments.front().length);
  if (!buffer) return std::nullopt;
  for (const buf::IoBuffer& segment : segments.subspan(1)) {
    if (fixed.find(segment.data, segment.length) != buffer) return std::nullopt;
  }
  fixed.count_operation();
  return buffer;
}

std::int32_t transfer_by_call(Direction direction, int fd, std::span<const buf::IoBuffer> segments,
                              FileOffset offset, int rw_flags) noexcept {
  const auto iovecs = buf::as_iovecs(segments);
  const auto count = static_cast<int>(iovecs.size());
  const auto at = static_cast<off_t>(offset.raw());
  const ssize_t result = direction == Direction::kFromFile
                             ? ::preadv2(fd, iovecs.data(), count, at, rw_flags)
                             : ::pwritev2(fd, iovecs.data(), count, at, rw_flags);
  return result < 0 ? -errno : static_cast<std::int32_t>(result);
}

int to_rw_flags(Durability durability) noexcept {
  return durability == Durability::kStable ? RWF_DSYNC : 0;
}

Error to_transfer_error(std::int32_t result, bool is_read) noexcept {
  if (result == -EFAULT) return Error::make(ErrorKind::kMemoryFault, "guest memory of a request");
  return Error::host(-result, is_read ? "read the image" : "write the image");
}

}  // namespace guestio::disk
