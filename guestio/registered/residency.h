// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// How much of a memory file is resident, as fstat() reports it.
namespace guestio::registered {

/// Whether the file lives in memory (tmpfs, memfd, hugetlbfs). A FUSE server or a disk serves the
/// pages of other files, and may stall.
[[nodiscard]] bool is_memory_file(int fd) noexcept;

/// Blocks of 512 bytes that the file occupies; 0 on failure and without a file.
[[nodiscard]] std::int64_t file_blocks(int fd) noexcept;

/// Whether the file has all of its blocks.
[[nodiscard]] bool is_resident(int fd) noexcept;

}  // namespace guestio::registered
