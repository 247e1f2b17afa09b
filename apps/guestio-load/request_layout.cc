// SPDX-License-Identifier: MIT
#include "apps/guestio-load/request_layout.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "guestio/base/align.h"
#include "guestio/base/check.h"
#include "guestio/base/units.h"
#include "guestio/virtio/blk_layout.h"

namespace guestio::load {

using virtio::Direction;

namespace {

constexpr std::size_t kHeaderBytes = sizeof(virtio::blk::RequestHeader);
constexpr std::size_t kLeastGuard = 16;
constexpr std::size_t kMaxGuard = 80;
constexpr std::size_t kLargestAlignment = kPageSize;
constexpr std::size_t kTailGuard = 256;
// More cuts than this only make the same again.
constexpr std::size_t kMaxExtraCuts = 16;

std::size_t random_size(std::mt19937_64& engine, std::size_t low, std::size_t high) {
  return std::uniform_int_distribution<std::size_t>(low, high)(engine);
}

/// A place to cut a row at, other than its ends.
std::size_t cut_place(std::size_t length, std::size_t data_start, std::size_t data_end,
                      Layout layout, std::mt19937_64& engine) {
  const std::size_t sectors = (data_end - data_start) / Sector::kSize;
  const bool in_sectors =
      sectors > 1 && (layout == Layout::kSimple || random_size(engine, 0, 1) == 0);
  if (in_sectors) return data_start + random_size(engine, 1, sectors - 1) * Sector::kSize;
  if (layout == Layout::kSimple) return 0;
  return length > 1 ? random_size(engine, 1, length - 1) : 0;
}

}  // namespace

std::size_t RequestLayout::arena_bytes(std::size_t largest, const Limits& limits) {
  return align_up(largest + kTailGuard + limits.pieces * (kMaxGuard + kLargestAlignment),
                  kPageSize);
}

std::size_t RequestLayout::fewest_pieces(const Row& row) const {
  return (row.length + limits_.piece_bytes - 1) / limits_.piece_bytes;
}

void RequestLayout::lay(std::span<const std::byte> readable, std::size_t writable, Layout layout,
                        std::mt19937_64& engine) {
  GUESTIO_CHECK(readable.size() >= kHeaderBytes && writable > 0, "a request with both rows");
  const Row out{readable.size(), kHeaderBytes, readable.size(), Direction::kReadable};
  const Row in{writable, 0, writable - 1, Direction::kWritable};
  // Header and status stand alone in a simple layout, which takes a piece where there is data.
  const std::size_t alone = layout == Layout::kAny ? 0
                                                   : (out.data_end > out.data_start ? 1u : 0u) +
                                                         (in.data_end > 0 ? 1u : 0u);
  const std::size_t fewest = fewest_pieces(out) + fewest_pieces(in) + alone;
  GUESTIO_CHECK(fewest <= limits_.pieces, "a request within its limits");
  const std::size_t spare = std::min<std::size_t>(limits_.pieces - fewest, kMaxExtraCuts);
  const std::size_t extra = random_size(engine, 0, spare);
  const std::size_t extra_out = random_size(engine, 0, extra);
  pieces_.clear();
  cut(out, extra_out, layout, engine);
  cut(in, extra - extra_out, layout, engine);

  const std::size_t used = place(layout, engine);
  const auto fill = static_cast<std::byte>(engine());
  before_.assign(used, fill);
  segments_.clear();
  for (const Piece& piece : pieces_) {
    if (piece.direction == Direction::kReadable) {
      std::ranges::copy(readable.first(piece.length),
                        before_.begin() + static_cast<std::ptrdiff_t>(piece.at));
      readable = readable.subspan(piece.length);
    }
    segments_.push_back({arena_.gpa.plus_unchecked(piece.at),
                         static_cast<std::uint32_t>(piece.length), piece.direction});
  }
  std::ranges::copy(before_, arena_.host);
}

void RequestLayout::cut(const Row& row, std::size_t extra_cuts, Layout layout,
                        std::mt19937_64& engine) {
  std::vector<std::size_t> places = {row.length};
  if (layout == Layout::kSimple) {
    if (row.data_start != 0) places.push_back(row.data_start);
    if (row.data_end != row.length) places.push_back(row.data_end);
  }
  for (std::size_t i = 0; i < extra_cuts; ++i) {
    places.push_back(cut_place(row.length, row.data_start, row.data_end, layout, engine));
  }
  std::ranges::sort(places);
  std::size_t from = 0;
  for (const std::size_t to : places) {
    if (to > from) add_piece(to - from, row.direction);
    from = to;
  }
}

void RequestLayout::add_piece(std::size_t length, Direction direction) {
  while (length > limits_.piece_bytes) {
    pieces_.push_back({limits_.piece_bytes, 0, direction});
    length -= limits_.piece_bytes;
  }
  pieces_.push_back({length, 0, direction});
}

std::size_t RequestLayout::place(Layout layout, std::mt19937_64& engine) {
  constexpr std::array<std::size_t, 4> kAlignments = {1, 8, Sector::kSize, kLargestAlignment};
  std::vector<std::size_t> order(pieces_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::shuffle(order, engine);
  // Some requests are aligned throughout, as a guest's are; others mix.
  const std::size_t common = random_size(engine, 0, kAlignments.size() * 2 - 1);
  std::size_t used = 0;
  for (const std::size_t index : order) {
    const std::size_t own = common < kAlignments.size() ? common : random_size(engine, 0, 3);
    const std::size_t alignment = layout == Layout::kSimple ? Sector::kSize : kAlignments[own];
    pieces_[index].at = align_up(used + random_size(engine, kLeastGuard, kMaxGuard), alignment);
    used = pieces_[index].at + pieces_[index].length;
  }
  used += kTailGuard;
  GUESTIO_CHECK(used <= arena_.size, "an arena that is large enough");
  return used;
}

void RequestLayout::take_written(std::span<std::byte> to) const {
  for (const Piece& piece : pieces_) {
    if (piece.direction == Direction::kReadable) continue;
    std::copy_n(arena_.host + piece.at, piece.length, to.begin());
    to = to.subspan(piece.length);
  }
}

std::optional<std::size_t> RequestLayout::find_damage() {
  // What the device may write is taken over; all the rest must be as it was.
  for (const Piece& piece : pieces_) {
    if (piece.direction == Direction::kReadable) continue;
    std::copy_n(arena_.host + piece.at, piece.length,
                before_.begin() + static_cast<std::ptrdiff_t>(piece.at));
  }
  const std::span now(arena_.host, before_.size());
  const auto [was, is] = std::ranges::mismatch(before_, now);
  if (is == now.end()) return std::nullopt;
  return static_cast<std::size_t>(is - now.begin());
}

}  // namespace guestio::load
