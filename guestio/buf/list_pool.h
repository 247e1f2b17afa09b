// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

/// Memory for lists on the request path.
namespace guestio::buf {

/// Where the segment and piece lists of large requests grow, so that a thread that has warmed up
/// handles requests of any size without touching the heap: up to FramePool::kMaxFrameBytes it is
/// the thread's frame pool, up to kMaxKeptBlock free lists of its own by powers of two; what is
/// larger goes to operator new and delete.
///
/// Threads: any, without locks; a block may be released on another thread and is then kept there.
/// Errors: out of memory ends the process.
class ListPool {
 public:
  static constexpr std::size_t kMaxKeptBlock = std::size_t{1} << 20;
  /// The most that a thread's own lists hold.
  static constexpr std::size_t kMaxKeptBytes = std::size_t{4} << 20;

  /// Aligned as by operator new.
  [[nodiscard]] static void* allocate(std::size_t size) noexcept;
  /// Requires: `block` came from allocate(`size`), on any thread.
  static void release(void* block, std::size_t size) noexcept;
};

}  // namespace guestio::buf
