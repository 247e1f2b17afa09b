// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "guestio/base/units.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/uring/file.h"
#include "guestio/uring/registered_buffers.h"

/// A read or write of host memory, as the ring takes it.
namespace guestio::disk {

enum class Direction : std::uint8_t { kFromFile, kToFile };

struct TransferEntry {
  Direction direction;
  uring::File file;
  FileOffset offset;
  std::span<const buf::IoBuffer> segments;  ///< stays in place until completion; not empty
  /// The registered piece of memory that holds all segments, if the operation is to name it.
  std::optional<std::uint16_t> piece = std::nullopt;
  int rw_flags = 0;  ///< RWF_*

  /// Fills in `entry`, which is all zeroes.
  void apply_to(io_uring_sqe& entry) const noexcept;
};

/// The registered piece that holds all of `segments`, if one operation can name it; which it then
/// does, and is counted.
[[nodiscard]] std::optional<std::uint16_t> find_registered_buffer(
    uring::RegisteredBuffers& fixed, std::span<const buf::IoBuffer> segments) noexcept;

}  // namespace guestio::disk
