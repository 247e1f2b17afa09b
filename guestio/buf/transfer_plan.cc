// SPDX-License-Identifier: MIT
#include "guestio/buf/transfer_plan.h"

#include <algorithm>
#include <optional>

#include "guestio/base/align.h"
#include "guestio/base/check.h"

namespace guestio::buf {

namespace {

bool is_fit(const IoBuffer& run, const DirectIoLimits& limits) noexcept {
  return is_aligned(reinterpret_cast<std::uintptr_t>(run.data), limits.memory_alignment);
}

}  // namespace

/// Plans a window block by block.
class TransferPlan::Builder {
 public:
  Builder(TransferPlan& plan, const Window& window, const DirectIoLimits& limits,
          std::size_t max_bounce) noexcept
      : plan_(plan),
        limits_(limits),
        max_bounce_(max_bounce),
        cursor_(window.cursor),
        left_(window.length),
        skipped_(window.offset.offset_from(plan.file_offset_)) {
    plan_.head_padding_ = skipped_;
  }

  /// `forced` (kPolicy or kManyPieces) bounces all blocks.
  void build(std::optional<BounceReason> forced) {
    while (left_ != 0) {
      run_ = cursor_.run();
      const std::size_t direct = forced || skipped_ != 0 ? 0 : direct_bytes();
      const bool added = direct != 0 ? add_direct(direct) : add_bounced(reason(forced));
      if (!added) return;
    }
  }

 private:
  /// Remaining bytes below the limit.
  [[nodiscard]] std::size_t spare() const noexcept {
    return limits_.max_bytes - (plan_.file_bytes() - skipped_);
  }
  /// Whole blocks in one run of memory from here on.
  [[nodiscard]] std::size_t whole_blocks() const noexcept {
    return align_down(std::min({run_.length, left_, spare()}), limits_.block());
  }
  [[nodiscard]] std::size_t direct_bytes() const noexcept {
    return is_fit(run_, limits_) ? whole_blocks() : 0;
  }
  [[nodiscard]] bool can_add_piece() const noexcept {
    return plan_.pieces_.size() < limits_.max_segments;
  }

  /// Why the block here is bounced.
  [[nodiscard]] BounceReason reason(std::optional<BounceReason> forced) const noexcept {
    if (forced) return *forced;
    if (skipped_ != 0 || left_ < limits_.block()) return BounceReason::kPadding;
    return is_fit(run_, limits_) ? BounceReason::kSegmentBoundary : BounceReason::kMisaligned;
  }

  [[nodiscard]] bool add_direct(std::size_t size) {
    if (!can_add_piece()) return false;
    plan_.add_direct(run_.data, size);
    advance(size);
    return true;
  }

  /// Bounces the block here; of a misaligned run, or if all blocks are bounced, as many as
  /// possible.
  [[nodiscard]] bool add_bounced(BounceReason reason) {
    const std::size_t block = limits_.block();
    const bool joins = !plan_.pieces_.empty() && plan_.pieces_.back().is_bounced();
    if (!joins && !can_add_piece()) return false;
    const std::size_t offset = plan_.next_bounce_offset();
    const std::size_t spare_bounce = max_bounce_ - std::min(max_bounce_, offset);
    const std::size_t most = align_down(std::min(spare_bounce, spare()), block);
    if (most == 0) return false;
    std::size_t size = block;
    if (reason != BounceReason::kPadding && reason != BounceReason::kSegmentBoundary) {
      size = std::clamp(whole_blocks(), block, most);
    }
    plan_.add_bounced(size, reason);
    const std::size_t taken = std::min(size - skipped_, left_);
    plan_.tail_padding_ = size - skipped_ - taken;
    skipped_ = 0;
    advance(taken);
    return true;
  }

  void advance(std::size_t bytes) noexcept {
    plan_.window_bytes_ += bytes;
    cursor_.advance(bytes);
    left_ -= bytes;
  }

  TransferPlan& plan_;
  const DirectIoLimits& limits_;
  const std::size_t max_bounce_;
  SegmentCursor cursor_;
  std::size_t left_;     // of the window
  std::size_t skipped_;  // padding before the window, in the next planned block
  IoBuffer run_;
};

TransferPlan::TransferPlan(const Window& window, const DirectIoLimits& limits,
                           const Options& options)
    : file_offset_(align_down(window.offset.raw(), limits.block())),
      bounce_alignment_(limits.memory_alignment) {
  GUESTIO_CHECK(window.length > 0, "a non-empty window");
  GUESTIO_CHECK(options.max_bounce >= limits.block() && limits.max_bytes >= limits.block() &&
                    limits.max_segments > 0,
                "capacity for a block");
  std::optional<BounceReason> forced;
  if (options.policy == Policy::kBounceAll) forced = BounceReason::kPolicy;
  Builder(*this, window, limits, options.max_bounce).build(forced);
  if (pieces_.size() > options.max_pieces && bounced_bytes() != 0 &&
      file_bytes() <= options.max_bounce) {
    clear();
    Builder(*this, window, limits, options.max_bounce).build(BounceReason::kManyPieces);
  }
  GUESTIO_CHECK(window_bytes_ > 0, "a plan of at least one byte");
}

void TransferPlan::clear() noexcept {
  pieces_.clear();
  window_bytes_ = 0;
  tail_padding_ = 0;
  bounce_size_ = 0;
  bounced_ = {};
}

void TransferPlan::add_direct(std::byte* data, std::size_t size) {
  pieces_.push_back({data, size, 0});
}

void TransferPlan::add_bounced(std::size_t size, BounceReason reason) {
  const std::size_t offset = next_bounce_offset();
  bounced_.add(reason, size);
  bounce_size_ = offset + size;
  if (!pieces_.empty() && pieces_.back().is_bounced()) {
    pieces_.back().size += size;
  } else {
    pieces_.push_back({nullptr, size, offset});
  }
}

/// The offset of the next bounced bytes: right after the current piece, or at an aligned offset.
std::size_t TransferPlan::next_bounce_offset() const noexcept {
  const bool joins = !pieces_.empty() && pieces_.back().is_bounced();
  return joins ? bounce_size_ : align_up(bounce_size_, bounce_alignment_);
}

void TransferPlan::count(BounceCounters& counters) const noexcept {
  ++counters.plans;
  counters.direct_bytes += file_bytes() - bounced_bytes();
  counters.bounced.add(bounced_);
}

PoolVector<IoBuffer, 16> TransferPlan::segments(std::span<std::byte> bounce) const {
  PoolVector<IoBuffer, 16> result;
  result.reserve(pieces_.size());
  for (const Piece& piece : pieces_) {
    std::byte* const data =
        piece.is_bounced() ? bounce.subspan(piece.bounce_offset, piece.size).data() : piece.data;
    result.push_back({data, piece.size});
  }
  return result;
}

Result<> TransferPlan::copy_in(SegmentCursor cursor, std::span<std::byte> bounce) const {
  return copy(cursor, bounce, window_bytes_, Direction::kIntoBounce);
}

Result<> TransferPlan::copy_out(SegmentCursor cursor, std::span<std::byte> bounce,
                                std::size_t arrived) const {
  const std::size_t of_window = arrived - std::min(arrived, head_padding_);
  return copy(cursor, bounce, std::min(of_window, window_bytes_), Direction::kIntoGuest);
}

Result<> TransferPlan::copy(SegmentCursor cursor, std::span<std::byte> bounce,
                            std::size_t remaining, Direction direction) const {
  std::size_t skipped = head_padding_;  // only the first piece starts with padding
  for (const Piece& piece : pieces_) {
    const std::size_t size = std::min(piece.size - skipped, remaining);
    if (piece.is_bounced()) {
      const auto bytes = bounce.subspan(piece.bounce_offset + skipped, size);
      const auto copied =
          direction == Direction::kIntoBounce ? cursor.read(bytes) : cursor.write(bytes);
      if (!copied) return copied;
    } else {
      cursor.advance(size);
    }
    remaining -= size;
    skipped = 0;
  }
  return {};
}

}  // namespace guestio::buf
