// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

namespace guestio::buf {

/// What a file's direct I/O can take. The three alignments are separate numbers because they differ
/// in practice (512-byte memory on a device of 4096-byte blocks is common). Each is a power of two;
/// 1 means that anything goes. Asked of the file, never assumed (disk/probe/file_limits.h).
struct DirectIoLimits {
  std::uint32_t memory_alignment = 1;                ///< of every segment's host address, bytes
  std::uint32_t length_alignment = 1;                ///< of every segment's length, bytes
  std::uint32_t offset_alignment = 1;                ///< of the position in the file, bytes
  std::uint32_t max_segments = 1024;                 ///< in one vectored call (UIO_MAXIOV)
  std::uint64_t max_bytes = std::uint64_t{1} << 30;  ///< in one call

  /// The unit of a transfer: each call moves a multiple of it.
  [[nodiscard]] constexpr std::uint32_t block() const noexcept {
    return length_alignment > offset_alignment ? length_alignment : offset_alignment;
  }
  friend constexpr bool operator==(const DirectIoLimits&, const DirectIoLimits&) = default;
};

}  // namespace guestio::buf
