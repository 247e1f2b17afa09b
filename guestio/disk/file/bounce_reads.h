// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "guestio/base/units.h"
#include "guestio/buf/io_buffer.h"

/// Bounce reads: reads through bounce memory from files whose bytes the kernel copies (files in
/// memory, the page cache).
///
/// The kernel copies with the processor's string instruction. On many processors it is several
/// times slower if source and destination differ modulo 16 (AMD Zen: 27 µs instead of 11 for
/// 64 KiB). A bounce read goes to aligned memory, and our own copy (mem/recover.h), which is
/// indifferent to alignment, takes it from there: 13 µs. Writes do not need it: the kernel's
/// destination is aligned.
namespace guestio::disk {

/// Times a few reads at the beginning of an open file, to aligned memory and one byte off. `size`:
/// of the file, in bytes.
[[nodiscard]] bool are_misaligned_reads_slow(int fd, std::uint64_t size) noexcept;

/// Whether enough of a read at `offset` goes to misaligned memory to be worth a bounce.
[[nodiscard]] bool is_misaligned(std::span<const buf::IoBuffer> segments,
                                 FileOffset offset) noexcept;

}  // namespace guestio::disk
