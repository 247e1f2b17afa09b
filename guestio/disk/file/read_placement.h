// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/units.h"
#include "guestio/buf/io_buffer.h"

/// Reads from files whose bytes the kernel copies (files in memory, the page cache).
///
/// The kernel copies with the processor's string instruction, which on many processors is several
/// times slower where source and destination are not a multiple of 16 apart (AMD Zen: 27 µs in
/// place of 11 for 64 KiB). Such a read is better done into bounce memory, which lies as the file
/// does, and copied from there by our own loop (mem/recover.h), which does not care: 13 µs. Writes
/// do not need it; what the kernel writes to lies well.
namespace guestio::disk {

/// Whether reads that lie badly are bounced although the file takes them.
enum class BounceReads : std::uint8_t {
  kMeasured,  ///< where are_misaligned_reads_slow() says so
  kNever,     ///< never
  kAlways,    ///< always
};

/// Times reads of an open file into memory that lies as the file does, and one byte off. Reads a
/// little at its beginning. `size`: the file's, in bytes.
[[nodiscard]] bool are_misaligned_reads_slow(int fd, std::uint64_t size) noexcept;

/// Whether enough of a read from `offset` goes to memory that lies badly for a bounce to pay.
[[nodiscard]] bool is_misaligned(std::span<const buf::IoBuffer> segments,
                                 FileOffset offset) noexcept;

}  // namespace guestio::disk
