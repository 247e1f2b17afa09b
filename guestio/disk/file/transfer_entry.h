// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/disk/disk.h"
#include "guestio/uring/file.h"
#include "guestio/uring/registered_buffers.h"

/// One read or write of host memory: as an io_uring operation, and as a system call.
namespace guestio::disk {

enum class Direction : std::uint8_t { kFromFile, kToFile };

struct TransferEntry {
  Direction direction;
  uring::File file;
  FileOffset offset;
  std::span<const buf::IoBuffer> segments;  ///< stays in place until completion; not empty
  /// The index of the registered buffer around all segments, for an operation that names it.
  std::optional<std::uint16_t> registered = std::nullopt;
  int rw_flags = 0;  ///< RWF_*

  /// Fills in `entry`. Requires: it is zeroed.
  void apply_to(io_uring_sqe& entry) const noexcept;
};

/// The registered buffer around all of `segments`, if one operation can name it. Counts that
/// operation.
[[nodiscard]] std::optional<std::uint16_t> find_registered_buffer(
    uring::RegisteredBuffers& fixed, std::span<const buf::IoBuffer> segments) noexcept;

/// By the calling thread. Returns bytes moved, or -errno.
[[nodiscard]] std::int32_t transfer_by_call(Direction direction, int fd,
                                            std::span<const buf::IoBuffer> segments,
                                            FileOffset offset, int rw_flags) noexcept;

[[nodiscard]] int to_rw_flags(Durability durability) noexcept;

/// The error of a failed transfer; `result` is -errno.
[[nodiscard]] Error to_transfer_error(std::int32_t result, bool is_read) noexcept;

}  // namespace guestio::disk
