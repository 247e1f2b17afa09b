// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/buf/pool_vector.h"
#include "guestio/buf/segment_cursor.h"

namespace guestio::buf {

/// Divides a transfer into bytes that go directly between guest memory and the file, and bytes that
/// go through bounce memory because they break a limit of the file.
///
/// The file is a sequence of blocks (DirectIoLimits::block()). A block goes direct if its guest
/// memory is one run of host bytes at an aligned address. Every other block is bounced. Adjacent
/// blocks of one kind make one piece:
///
///   guest memory   |ffffffffff|ffff|ff|ffffffffffffff|       | = end of a segment
///   blocks         [ 0 ][ 1 ][ 2 ][ 3 ][ 4 ][ 5 ][ 6 ]
///   pieces         [direct  ][bounced ][direct       ]
///
/// A window with an unaligned head or tail is widened to whole blocks. The surplus bytes are
/// padding: they lie in bounce memory and never reach the guest. A write must first read the blocks
/// with padding (has_padding()), and must not run concurrently with another write to them
/// (disk/guard/block_guard.h).
///
/// Invariants:
/// 1. The pieces cover [file_offset(), file_offset() + file_bytes()) in order, whole blocks each.
/// 2. window_bytes() + head_padding() + tail_padding() == file_bytes().
/// 3. It has at most limits.max_segments pieces, a segment each, and limits.max_bytes bytes.
///
///     const TransferPlan plan(window, limits, options);
///     // bounce: plan.bounce_size() bytes, aligned to plan.bounce_alignment()
///     if (is_write) copied = plan.copy_in(window.cursor, bounce);
///     // one vectored call at plan.file_offset() with plan.segments(bounce)
///     if (is_read) copied = plan.copy_out(window.cursor, bounce, arrived);
///     window.cursor.advance(plan.window_bytes());  // and again for the rest
///
/// No heap allocations, whatever its size (list_pool.h).
class TransferPlan {
 public:
  struct Piece {
    std::byte* data = nullptr;      ///< host address; nullptr when the piece is bounced
    std::size_t size = 0;           ///< bytes in the file, whole blocks
    std::size_t bounce_offset = 0;  ///< in bounce memory, when bounced
    [[nodiscard]] bool is_bounced() const noexcept { return data == nullptr; }
  };

  enum class Policy : std::uint8_t {
    kDirectWherePossible,
    kBounceAll,  ///< for files that reject I/O within their reported limits
  };
  static constexpr std::size_t kAnyNumber = std::numeric_limits<std::size_t>::max();

  struct Options {
    std::size_t max_bounce;  ///< maximum bytes of bounce memory of one plan
    Policy policy = Policy::kDirectWherePossible;
    /// A plan with bounced pieces and more pieces than this is bounced as a whole, if max_bounce
    /// allows: the kernel's work for each segment costs more than the copy.
    std::size_t max_pieces = kAnyNumber;
  };

  /// The bytes to transfer: `length` bytes between `offset` of the file and the segments from
  /// `cursor` on.
  struct Window {
    SegmentCursor cursor;
    FileOffset offset;
    std::uint64_t length = 0;
  };

  /// Plans the longest prefix of the window within the limits and options.max_bounce; at least one
  /// byte. Requires: the segments hold at least `length` bytes, length > 0, offset + length does
  /// not overflow; max_bounce and limits.max_bytes are at least limits.block().
  TransferPlan(const Window& window, const DirectIoLimits& limits, const Options& options);

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
  /// Whether a write must first read blocks of the file.
  [[nodiscard]] bool has_padding() const noexcept { return head_padding_ + tail_padding_ != 0; }

  /// Bounced bytes, padding included.
  [[nodiscard]] std::size_t bounced_bytes() const noexcept { return bounced_.total(); }
  /// The same by reason; each block has one, the first that applies.
  [[nodiscard]] const BouncedBytes& bounced() const noexcept { return bounced_; }
  /// The bounce memory of the plan, contiguous and aligned to bounce_alignment(); more than
  /// bounced_bytes() if alignment separates pieces.
  [[nodiscard]] std::size_t bounce_size() const noexcept { return bounce_size_; }
  [[nodiscard]] std::size_t bounce_alignment() const noexcept { return bounce_alignment_; }

  void count(BounceCounters& counters) const noexcept;

  /// The plan's segments for the kernel: direct pieces unchanged, bounced ones in `bounce`.
  /// Requires of `bounce`, here and below: bounce_size() bytes.
  [[nodiscard]] PoolVector<IoBuffer, 16> segments(std::span<std::byte> bounce) const;

  /// Copies the bounced part of the window from guest memory into bounce memory. `cursor` is that
  /// of the plan's window. Errors: memory fault.
  [[nodiscard]] Result<> copy_in(SegmentCursor cursor, std::span<std::byte> bounce) const;
  /// Copies from bounce memory into guest memory, after a read of the first `arrived` bytes from
  /// file_offset(). The bytes past them are not copied: bounce memory holds bytes of other requests
  /// there.
  [[nodiscard]] Result<> copy_out(SegmentCursor cursor, std::span<std::byte> bounce,
                                  std::size_t arrived) const;

 private:
  enum class Direction : std::uint8_t { kIntoBounce, kIntoGuest };
  class Builder;

  [[nodiscard]] Result<> copy(SegmentCursor cursor, std::span<std::byte> bounce,
                              std::size_t remaining, Direction direction) const;
  void add_direct(std::byte* data, std::size_t size);
  void add_bounced(std::size_t size, BounceReason reason);
  [[nodiscard]] std::size_t next_bounce_offset() const noexcept;
  void clear() noexcept;

  PoolVector<Piece, 8> pieces_;
  FileOffset file_offset_;
  std::size_t head_padding_ = 0;
  std::size_t window_bytes_ = 0;
  std::size_t tail_padding_ = 0;
  std::size_t bounce_size_ = 0;
  std::size_t bounce_alignment_;  // of each bounced piece's place
  BouncedBytes bounced_;
};

}  // namespace guestio::buf
