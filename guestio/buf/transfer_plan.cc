// SPDX-License-Identifier: MIT
#include "guestio/buf/transfer_plan.h"

#include <algorithm>

#include "guestio/base/check.h"

namespace guestio::buf {

namespace {

constexpr std::size_t kSlicesOfABlock = 2;

bool is_fit(const IoBuffer& run, const DirectIoLimits& limits) noexcept {
  return is_aligned(reinterpret_cast<std::uintptr_t>(run.data), limits.memory_alignment);
}

}  // namespace

TransferPlan::TransferPlan(const Window& window, const DirectIoLimits& limits,
                           std::size_t max_bounce, Policy policy)
    : grant_alignment_(limits.memory_alignment) {
  GUESTIO_CHECK(window.length > 0 && max_bounce >= limits.block(),
                "a window with bytes in it and room to bounce a block");
  GUESTIO_CHECK(limits.block() <= BouncePool::kUnit && limits.max_segments >= kSlicesOfABlock,
                "limits that bounce memory can meet");
  const std::size_t block = limits.block();
  const std::uint64_t end = window.offset.raw() + window.length;
  file_offset_ = FileOffset(align_down(window.offset.raw(), block));
  head_padding_ = window.offset.offset_from(file_offset_);

  SegmentCursor cursor = window.cursor;
  std::size_t segments = 0;
  std::uint64_t at = file_offset_.raw();  // start of the next block to plan
  while (at < end && segments < limits.max_segments) {
    const std::size_t room = limits.max_bytes - (at - file_offset_.raw());
    const std::size_t skipped = at < window.offset.raw() ? head_padding_ : 0;
    const std::size_t wanted = end - at - skipped;
    const IoBuffer run = cursor.run();
    const std::size_t whole_blocks =
        align_down(std::min({run.length, wanted, room}), std::uint64_t{block});
    if (policy == Policy::kDirectWherePossible && skipped == 0 && whole_blocks != 0 &&
        is_fit(run, limits)) {
      add_direct(run.data, whole_blocks);
      segments += 1;
      window_bytes_ += whole_blocks;
      cursor.advance(whole_blocks);
      at += whole_blocks;
      continue;
    }
    // This block cannot go direct, nor can the other whole blocks of an unfit run.
    // Its slices may be scattered: count one for each unit, and one for a unit shared with the
    // piece before.
    if (segments + kSlicesOfABlock > limits.max_segments && window_bytes_ != 0) break;
    const std::size_t slices = (limits.max_segments - segments - 1) * BouncePool::kUnit;
    const std::size_t bounce_room = max_bounce - std::min(max_bounce, next_grant_offset());
    const std::size_t budget =
        align_down(std::min({bounce_room, room, slices}), std::uint64_t{block});
    if (budget == 0) break;
    const bool run_is_unfit =
        skipped == 0 && (policy == Policy::kBounceAll || !is_fit(run, limits));
    const std::size_t size =
        run_is_unfit ? std::clamp<std::size_t>(whole_blocks, block, budget) : block;
    const std::size_t taken = std::min(size - skipped, wanted);
    segments += size / BouncePool::kUnit + 1;
    add_bounced(size);
    window_bytes_ += taken;
    tail_padding_ = size - skipped - taken;
    cursor.advance(taken);
    at += size;
  }
  GUESTIO_CHECK(window_bytes_ > 0, "a plan that moves something");
}

void TransferPlan::add_direct(std::byte* data, std::size_t size) {
  if (!pieces_.empty()) {
    Piece& last = pieces_.back();
    if (!last.is_bounced() && last.data + last.size == data) {
      last.size += size;
      return;
    }
  }
  pieces_.push_back({data, size, 0});
}

void TransferPlan::add_bounced(std::size_t size) {
  const std::size_t offset = next_grant_offset();
  bounced_bytes_ += size;
  grant_size_ = offset + size;
  if (!pieces_.empty() && pieces_.back().is_bounced()) {
    pieces_.back().size += size;
  } else {
    pieces_.push_back({nullptr, size, offset});
  }
}

/// Where bounced bytes that are added now will lie: right behind those of the present piece, or at
/// an address that fits the limits.
std::size_t TransferPlan::next_grant_offset() const noexcept {
  const bool joins = !pieces_.empty() && pieces_.back().is_bounced();
  return joins ? grant_size_ : align_up(grant_size_, grant_alignment_);
}

PoolVector<IoBuffer, 16> TransferPlan::segments(const BounceGrant& grant) const {
  PoolVector<IoBuffer, 16> result;
  for (const Piece& piece : pieces_) {
    if (!piece.is_bounced()) {
      result.push_back({piece.data, piece.size});
      continue;
    }
    grant.for_each_slice(piece.grant_offset, piece.size, [&](std::span<std::byte> slice) {
      result.push_back({slice.data(), slice.size()});
    });
  }
  return result;
}

Result<> TransferPlan::copy_in(SegmentCursor cursor, const BounceGrant& grant) const {
  return copy(cursor, grant, Direction::kIntoBounce);
}

Result<> TransferPlan::copy_out(SegmentCursor cursor, const BounceGrant& grant) const {
  return copy(cursor, grant, Direction::kIntoGuest);
}

Result<> TransferPlan::copy(SegmentCursor cursor, const BounceGrant& grant,
                            Direction direction) const {
  Result<> result;
  std::size_t skipped = head_padding_;    // only the first piece starts with padding
  std::size_t remaining = window_bytes_;  // and only the last ends with it
  for (const Piece& piece : pieces_) {
    const std::size_t size = std::min(piece.size - skipped, remaining);
    if (piece.is_bounced()) {
      grant.for_each_slice(piece.grant_offset + skipped, size, [&](std::span<std::byte> slice) {
        if (!result) return;
        result = direction == Direction::kIntoBounce ? cursor.read(slice) : cursor.write(slice);
      });
      if (!result) return result;
    } else {
      cursor.advance(size);
    }
    remaining -= size;
    skipped = 0;
  }
  return result;
}

}  // namespace guestio::buf
