// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <stop_token>

#include "guestio/base/error.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// Memory that is pinned once, for all rings of the process: registered with a ring of its own,
/// from which RegisteredBuffers takes it over in microseconds where pinning it again would take
/// tens of milliseconds a GiB, and without counting against the memory-lock limit again.
///
/// In Linux since 6.13 (include/uapi/linux/io_uring.h: IORING_REGISTER_CLONE_BUFFERS with offsets);
/// the headers we build with are older. Where can_clone() says no, rings pin for themselves.
///
/// Threads: any, one at a time; clone_to() any. When it goes, what was taken over stays.
class PinnedBuffers {
 public:
  /// What the kernel takes as one buffer.
  static constexpr std::size_t kMaxBufferBytes = std::size_t{1} << 30;

  /// Whether the kernel can take a buffer over. Asked once, by trying; some kernels that have the
  /// call lose other buffers of the table by it.
  [[nodiscard]] static bool can_clone() noexcept;

  /// Pins the pages of `memory` that are there now, and brings in those that are not. Ends some
  /// milliseconds after `stop`, or up to some tenths of a second where a buffer is there already.
  /// Errors: as of RegisteredBuffers::add(); cancelled.
  [[nodiscard]] static Result<PinnedBuffers> pin(std::span<std::byte> memory,
                                                 const std::stop_token& stop);

  [[nodiscard]] std::span<std::byte> memory() const noexcept { return memory_; }
  /// Makes `slot` of another ring's table what `buffer` is here: bytes from buffer *
  /// kMaxBufferBytes on. On that ring's thread. Errors: host, also where the kernel cannot.
  [[nodiscard]] Result<> clone_to(Ring& ring, unsigned buffer, unsigned slot) const noexcept;

 private:
  PinnedBuffers(std::span<std::byte> memory, Ring ring) noexcept
      : memory_(memory), ring_(std::move(ring)), fd_(ring_.raw()->ring_fd) {}

  std::span<std::byte> memory_;
  Ring ring_;
  int fd_;
};

/// Registers `memory`, a buffer at most, as `slot` of the ring's table. Errors: as of
/// RegisteredBuffers::add().
[[nodiscard]] Result<> register_buffer(Ring& ring, std::span<std::byte> memory,
                                       unsigned slot) noexcept;

}  // namespace guestio::uring
