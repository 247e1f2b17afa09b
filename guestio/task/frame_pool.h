// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

/// Memory for coroutine frames. Every Task allocates its frame here, so that a thread that has
/// warmed up starts coroutines without touching the heap.
namespace guestio::task {

/// Free lists by size, one set a thread.
///
/// 1. A block of at most kMaxFrameBytes bytes is kept when it is freed, on the thread that frees
/// it,
///    whichever thread allocated it; larger ones go to operator new and delete.
/// 2. A thread keeps at most kMaxKeptBytes bytes and gives all of them back when it ends.
/// 3. Built for the address or thread sanitizer it keeps nothing: a frame used after its end is
///    seen as such.
///
/// Threads: any, without locks; a thread touches only its own lists.
/// Errors: out of memory ends the process.
class FramePool {
 public:
  /// Sizes are rounded up to a multiple of it.
  static constexpr std::size_t kGranule = 128;
  static constexpr std::size_t kMaxFrameBytes = 8192;
  static constexpr std::size_t kMaxKeptBytes = std::size_t{16} << 20;

  /// Aligned as by operator new.
  [[nodiscard]] static void* allocate(std::size_t size) noexcept;
  /// Requires: `block` came from allocate(`size`), on any thread.
  static void release(void* block, std::size_t size) noexcept;

  /// What the calling thread's lists hold at present.
  [[nodiscard]] static std::size_t kept_bytes() noexcept;
  /// Whether this build keeps blocks at all (see 3).
  [[nodiscard]] static bool keeps_blocks() noexcept;
};

}  // namespace guestio::task
