// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

/// Memory for lists on the request path.
namespace guestio::buf {

/// The storage of long segment and piece lists, so that a warm thread handles requests of any size
/// without heap allocations. Blocks up to FramePool::kMaxFrameBytes come from the thread's frame
/// pool, up to kMaxKeptBlock from thread-local free lists by powers of two, larger ones from
/// operator new.
///
/// Threads: any, without locks; a block released on another thread stays there.
/// Errors: out of memory terminates the process.
class ListPool {
 public:
  static constexpr std::size_t kMaxKeptBlock = std::size_t{1} << 20;
  /// The maximum bytes on a thread's free lists.
  static constexpr std::size_t kMaxKeptBytes = std::size_t{4} << 20;

  /// Aligned as by operator new.
  [[nodiscard]] static void* allocate(std::size_t size) noexcept;
  /// Requires: `block` came from allocate(`size`), on any thread.
  static void release(void* block, std::size_t size) noexcept;
};

}  // namespace guestio::buf
