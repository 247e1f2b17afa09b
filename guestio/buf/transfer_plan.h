// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_pool.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/buf/pool_vector.h"
#include "guestio/buf/segment_cursor.h"

namespace guestio::buf {

/// Which bytes of a transfer go straight between guest memory and the file, and which go through
/// bounce pages because they break one of the file's limits.
///
/// The file is seen as a row of blocks (DirectIoLimits::block()). A block goes direct when the
/// guest memory behind it is one run of host bytes at a fitting address; every other block is
/// bounced. Neighbours of one kind make one piece:
///
///   guest memory   |ffffffffff|ffff|ff|ffffffffffffff|       | = end of a segment
///   blocks         [ 0 ][ 1 ][ 2 ][ 3 ][ 4 ][ 5 ][ 6 ]
///   pieces         [direct  ][bounced ][direct       ]
///
/// A window that starts or ends inside a block is widened to whole blocks; the surplus bytes are
/// called padding, lie in bounce memory, and never reach the guest. A write must first read the
/// blocks that have padding (needs_fill()) and must not run beside another write to them
/// (disk/file/block_guard.h).
///
/// Invariants:
/// 1. The pieces cover [file_offset(), file_offset() + file_bytes()) in order, whole blocks each.
/// 2. window_bytes() + head_padding() + tail_padding() == file_bytes().
/// 3. At most limits.max_segments segments and limits.max_bytes bytes come of it.
class TransferPlan {
 public:
  struct Piece {
    std::byte* data = nullptr;     ///< host address; nullptr when the piece is bounced
    std::size_t size = 0;          ///< bytes in the file, whole blocks
    std::size_t grant_offset = 0;  ///< where it lies in the grant, when bounced
    [[nodiscard]] bool is_bounced() const noexcept { return data == nullptr; }
  };

  enum class Policy {
    kDirectWherePossible,
    kBounceAll,  ///< for files that refuse what their limits promise
  };

  /// What is to be moved: `length` bytes between `offset` of the file and the segments from
  /// `cursor`.
  struct Window {
    SegmentCursor cursor;
    FileOffset offset;
    std::uint64_t length = 0;
  };

  /// Plans as much of the window, from its start, as fits the limits and `max_bounce` bytes of
  /// bounce memory. Requires: the segments hold at least `length` bytes, length > 0, offset +
  /// length does not overflow, max_bounce >= limits.block(). The plan covers at least one byte.
  TransferPlan(const Window& window, const DirectIoLimits& limits, std::size_t max_bounce,
               Policy policy);

  [[nodiscard]] std::span<const Piece> pieces() const noexcept {
    return {pieces_.data(), pieces_.size()};
  }
  [[nodiscard]] FileOffset file_offset() const noexcept { return file_offset_; }
  [[nodiscard]] std::size_t file_bytes() const noexcept {
    return head_padding_ + window_bytes_ + tail_padding_;
  }
  [[nodiscard]] std::size_t window_bytes() const noexcept { return window_bytes_; }
  [[nodiscard]] std::size_t head_padding() const noexcept { return head_padding_; }
  [[nodiscard]] std::size_t tail_padding() const noexcept { return tail_padding_; }
  /// Bytes that go through bounce memory, padding included.
  [[nodiscard]] std::size_t bounced_bytes() const noexcept { return bounced_bytes_; }
  /// How large a grant the plan needs; more than bounced_bytes() where pieces must be kept apart.
  [[nodiscard]] std::size_t grant_size() const noexcept { return grant_size_; }
  /// Whether a write has to read blocks of the file first.
  [[nodiscard]] bool has_padding() const noexcept { return head_padding_ + tail_padding_ != 0; }

  /// The plan as the kernel wants it: direct pieces as they are, bounced ones as slices of `grant`.
  /// Requires: grant.size() >= grant_size().
  [[nodiscard]] PoolVector<IoBuffer, 16> segments(const BounceGrant& grant) const;

  /// Copies the bounced part of the window from guest memory into `grant`. `cursor` is the one that
  /// the plan was made from. Errors: memory fault.
  Result<> copy_in(SegmentCursor cursor, const BounceGrant& grant) const;
  /// The other way round, after a read.
  Result<> copy_out(SegmentCursor cursor, const BounceGrant& grant) const;

 private:
  enum class Direction { kIntoBounce, kIntoGuest };
  Result<> copy(SegmentCursor cursor, const BounceGrant& grant, Direction direction) const;
  void add_direct(std::byte* data, std::size_t size);
  void add_bounced(std::size_t size);
  [[nodiscard]] std::size_t next_grant_offset() const noexcept;

  PoolVector<Piece, 8> pieces_;
  FileOffset file_offset_;
  std::size_t head_padding_ = 0;
  std::size_t window_bytes_ = 0;
  std::size_t tail_padding_ = 0;
  std::size_t bounced_bytes_ = 0;
  std::size_t grant_size_ = 0;
  std::size_t grant_alignment_;  // of each bounced piece's place in the grant
};

}  // namespace guestio::buf
