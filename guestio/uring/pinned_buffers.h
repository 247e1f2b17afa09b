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
/// the headers we build with are older. Where can_be_shared() says no, rings pin for themselves.
///
/// Threads: any, one at a time; clone_to() any. When it goes, what was taken over stays.
class PinnedBuffers {
 public:
  /// What the kernel takes as one piece.
  static constexpr std::size_t kPieceBytes = std::size_t{1} << 30;

  /// Whether the kernel can take a piece over. Asked once, by trying; some kernels that have the
  /// call lose other pieces of the table by it.
  [[nodiscard]] static bool can_be_shared() noexcept;

  /// Pins the pages of `memory` that are there now, and brings in those that are not. Ends some
  /// milliseconds after `stop`, or up to some tenths of a second where a piece is there already.
  /// Errors: as of RegisteredBuffers::add(); cancelled.
  [[nodiscard]] static Result<PinnedBuffers> pin(std::span<std::byte> memory,
                                                 const std::stop_token& stop);

  [[nodiscard]] std::span<std::byte> memory() const noexcept { return memory_; }
  /// Makes `slot` of another ring's table what `piece` is here: bytes from piece * kPieceBytes on.
  /// On that ring's thread. Errors: host, also where the kernel cannot.
  [[nodiscard]] Result<> clone_to(Ring& ring, unsigned piece, unsigned slot) const noexcept;

 private:
  PinnedBuffers(std::span<std::byte> memory, Ring ring) noexcept
      : memory_(memory), ring_(std::move(ring)), fd_(ring_.raw()->ring_fd) {}

  std::span<std::byte> memory_;
  Ring ring_;
  int fd_;
};

/// Registers `memory`, a piece at most, as `slot` of the ring's table. Errors: as of
/// RegisteredBuffers::add().
[[nodiscard]] Result<> register_piece(Ring& ring, std::span<std::byte> memory,
                                      unsigned slot) noexcept;

}  // namespace guestio::uring
