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
constexpr std::size_t kMinGuard = 16;
constexpr std::size_t kMaxGuard = 80;
constexpr std::size_t kMaxAlignment = kPageSize;
constexpr std::size_t kTailGuard = 256;
// Further cuts add no coverage.
constexpr std::size_t kMaxExtraCuts = 16;

std::size_t random_size(std::mt19937_64& engine, std::size_t low, std::size_t high) {
  return std::uniform_int_distribution<std::size_t>(low, high)(engine);
}

/// A random inner cut position.
std::size_t cut_position(std::size_t length, std::size_t data_start, std::size_t data_end,
                         Layout layout, std::mt19937_64& engine) {
  const std::size_t sectors = (data_end - data_start) / Sector::kSize;
  const bool in_sectors =
      sectors > 1 && (layout == Layout::kSimple || random_size(engine, 0, 1) == 0);
  if (in_sectors) return data_start + random_size(engine, 1, sectors - 1) * Sector::kSize;
  if (layout == Layout::kSimple) return 0;
  return length > 1 ? random_size(engine, 1, length - 1) : 0;
}

}  // namespace

std::size_t RequestLayout::arena_bytes(std::size_t max_request, const Limits& limits) {
  return align_up(max_request + kTailGuard + limits.descriptors * (kMaxGuard + kMaxAlignment),
                  kPageSize);
}

std::size_t RequestLayout::min_descriptors(const Part& part) const {
  return (part.length + limits_.descriptor_bytes - 1) / limits_.descriptor_bytes;
}

void RequestLayout::lay(std::span<const std::byte> readable, std::size_t writable, Layout layout,
                        std::mt19937_64& engine) {
  GUESTIO_CHECK(readable.size() >= kHeaderBytes && writable > 0, "a request with both parts");
  const Part out{readable.size(), kHeaderBytes, readable.size(), Direction::kReadable};
  const Part in{writable, 0, writable - 1, Direction::kWritable};
  // In a simple layout header and status are separate, which takes one descriptor more per part
  // with data.
  const std::size_t separate = layout == Layout::kAny ? 0
                                                      : (out.data_end > out.data_start ? 1u : 0u) +
                                                            (in.data_end > 0 ? 1u : 0u);
  const std::size_t needed = min_descriptors(out) + min_descriptors(in) + separate;
  GUESTIO_CHECK(needed <= limits_.descriptors, "a request within its limits");
  const std::size_t spare = std::min<std::size_t>(limits_.descriptors - needed, kMaxExtraCuts);
  const std::size_t extra = random_size(engine, 0, spare);
  const std::size_t extra_out = random_size(engine, 0, extra);
  placements_.clear();
  cut(out, extra_out, layout, engine);
  cut(in, extra - extra_out, layout, engine);

  const std::size_t used = place(layout, engine);
  const auto fill = static_cast<std::byte>(engine());
  before_.assign(used, fill);
  segments_.clear();
  for (const Placement& placement : placements_) {
    if (placement.direction == Direction::kReadable) {
      std::ranges::copy(readable.first(placement.length),
                        before_.begin() + static_cast<std::ptrdiff_t>(placement.at));
      readable = readable.subspan(placement.length);
    }
    segments_.push_back({arena_.gpa.plus_unchecked(placement.at),
                         static_cast<std::uint32_t>(placement.length), placement.direction});
  }
  std::ranges::copy(before_, arena_.host);
}

void RequestLayout::cut(const Part& part, std::size_t extra_cuts, Layout layout,
                        std::mt19937_64& engine) {
  std::vector<std::size_t> cuts = {part.length};
  if (layout == Layout::kSimple) {
    if (part.data_start != 0) cuts.push_back(part.data_start);
    if (part.data_end != part.length) cuts.push_back(part.data_end);
  }
  for (std::size_t i = 0; i < extra_cuts; ++i) {
    cuts.push_back(cut_position(part.length, part.data_start, part.data_end, layout, engine));
  }
  std::ranges::sort(cuts);
  std::size_t from = 0;
  for (const std::size_t to : cuts) {
    if (to > from) add_descriptors(to - from, part.direction);
    from = to;
  }
}

void RequestLayout::add_descriptors(std::size_t length, Direction direction) {
  while (length > limits_.descriptor_bytes) {
    placements_.push_back({limits_.descriptor_bytes, 0, direction});
    length -= limits_.descriptor_bytes;
  }
  placements_.push_back({length, 0, direction});
}

std::size_t RequestLayout::place(Layout layout, std::mt19937_64& engine) {
  constexpr std::array<std::size_t, 4> kAlignments = {1, 8, Sector::kSize, kMaxAlignment};
  std::vector<std::size_t> order(placements_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::shuffle(order, engine);
  // Some requests have one alignment throughout, like those of a guest; others mix.
  const std::size_t common = random_size(engine, 0, kAlignments.size() * 2 - 1);
  std::size_t used = 0;
  for (const std::size_t index : order) {
    const std::size_t own = common < kAlignments.size() ? common : random_size(engine, 0, 3);
    const std::size_t alignment = layout == Layout::kSimple ? Sector::kSize : kAlignments[own];
    placements_[index].at = align_up(used + random_size(engine, kMinGuard, kMaxGuard), alignment);
    used = placements_[index].at + placements_[index].length;
  }
  used += kTailGuard;
  GUESTIO_CHECK(used <= arena_.size, "a large enough arena");
  return used;
}

void RequestLayout::copy_written(std::span<std::byte> to) const {
  for (const Placement& placement : placements_) {
    if (placement.direction == Direction::kReadable) continue;
    std::copy_n(arena_.host + placement.at, placement.length, to.begin());
    to = to.subspan(placement.length);
  }
}

std::optional<std::size_t> RequestLayout::find_corruption() {
  // Accepts the device-writable bytes; all others must be unchanged.
  for (const Placement& placement : placements_) {
    if (placement.direction == Direction::kReadable) continue;
    std::copy_n(arena_.host + placement.at, placement.length,
                before_.begin() + static_cast<std::ptrdiff_t>(placement.at));
  }
  const std::span now(arena_.host, before_.size());
  const auto [submitted, found] = std::ranges::mismatch(before_, now);
  if (found == now.end()) return std::nullopt;
  return static_cast<std::size_t>(found - now.begin());
}

}  // namespace guestio::load
