// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <stop_token>

#include "guestio/base/error.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// Memory pinned once for all rings of the process. It is registered with a ring of its own, and
/// RegisteredBuffers clones it from there. A clone takes microseconds where pinning takes tens of
/// milliseconds per GiB, and it does not count against RLIMIT_MEMLOCK again.
///
/// Needs Linux 6.13 (include/uapi/linux/io_uring.h: IORING_REGISTER_CLONE_BUFFERS with offsets);
/// our headers are older. Without can_clone() each ring pins for itself.
///
/// Threads: any, one at a time; clone_to() any. Lifetime: clones outlive it.
class PinnedBuffers {
 public:
  /// The kernel's maximum for one buffer.
  static constexpr std::size_t kMaxBufferBytes = std::size_t{1} << 30;

  /// Whether the kernel can clone buffers. Probed once, by cloning: some kernels have the call but
  /// lose other buffers of the table by it.
  [[nodiscard]] static bool can_clone() noexcept;

  /// Faults in and pins the pages of `memory`. Returns some milliseconds after `stop`, or up to
  /// some tenths of a second for resident memory. Errors: as of RegisteredBuffers::add();
  /// cancelled.
  [[nodiscard]] static Result<PinnedBuffers> pin(std::span<std::byte> memory,
                                                 const std::stop_token& stop);

  [[nodiscard]] std::span<std::byte> memory() const noexcept { return memory_; }
  /// Clones the buffer `index`, the bytes from index * kMaxBufferBytes on, into `slot` of another
  /// ring's table. On that ring's thread. Errors: host, also without kernel support.
  [[nodiscard]] Result<> clone_to(Ring& ring, unsigned index, unsigned slot) const noexcept;

 private:
  PinnedBuffers(std::span<std::byte> memory, Ring ring) noexcept
      : memory_(memory), ring_(std::move(ring)), fd_(ring_.raw()->ring_fd) {}

  std::span<std::byte> memory_;
  Ring ring_;
  int fd_;
};

/// Registers `memory`, at most kMaxBufferBytes, as `slot` of the ring's table. Errors: as of
/// RegisteredBuffers::add().
[[nodiscard]] Result<> register_buffer(Ring& ring, std::span<std::byte> memory,
                                       unsigned slot) noexcept;

}  // namespace guestio::uring
