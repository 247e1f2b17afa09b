// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

/// Memory for coroutine frames. Every Task allocates its frame here, so a warm thread starts
/// coroutines without heap allocations.
namespace guestio::task {

/// Thread-local free lists by size.
///
/// 1. A freed block of at most kMaxFrameBytes stays on the free list of the freeing thread,
///    whichever thread allocated it. Larger blocks go to operator new and delete.
/// 2. A thread keeps at most kMaxKeptBytes and frees all of them at its end.
/// 3. Builds with the address or thread sanitizer keep nothing, so a use after free is detected.
///
/// Threads: any, without locks; a thread accesses only its own lists.
/// Errors: out of memory terminates the process.
class FramePool {
 public:
  /// Sizes are rounded up to a multiple of this.
  static constexpr std::size_t kGranule = 128;
  static constexpr std::size_t kMaxFrameBytes = 8192;
  static constexpr std::size_t kMaxKeptBytes = std::size_t{16} << 20;

  /// Aligned as by operator new.
  [[nodiscard]] static void* allocate(std::size_t size) noexcept;
  /// Requires: `block` came from allocate(`size`), on any thread.
  static void release(void* block, std::size_t size) noexcept;

  /// Bytes on the calling thread's free lists.
  [[nodiscard]] static std::size_t kept_bytes() noexcept;
  /// Whether this build keeps blocks (see 3).
  [[nodiscard]] static bool keeps_blocks() noexcept;
};

}  // namespace guestio::task
