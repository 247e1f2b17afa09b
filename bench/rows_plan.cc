// SPDX-License-Identifier: MIT
// Rows plan: make and drop the transfer plan of a locked request. The file needs 512-byte blocks at
// 512-byte addresses.
#include <fmt/core.h>

#include <array>
#include <memory>

#include "fixture.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/buf/transfer_plan.h"
#include "row.h"

namespace guestio::bench {

namespace {

using buf::MemoryAccess;
using buf::TransferPlan;
using mem::AddressRange;

constexpr std::size_t kSize = 131072;
constexpr std::uint64_t kBlock = 512;
constexpr std::uint64_t kStart = 64 * kPageSize;
constexpr buf::DirectIoLimits kLimits{kBlock, kBlock, kBlock, 1024, std::uint64_t{1} << 30};

/// Requires: the plan bounces `bounced` bytes.
void add_plan(Rows& rows, const std::string& name, const mem::AnyRange& range,
              std::size_t bounced) {
  const buf::RequestBuffers request = range.visit([](const auto& of_kind) {
    return buf::RequestBuffers(memory(), of_kind, MemoryAccess::kWritable);
  });
  auto locked = request.lock(MemoryAccess::kWritable);
  require(locked);
  const auto kept = std::make_shared<buf::LockedIoBuffers>(std::move(*locked));
  rows.add(name, request.size(), [kept, bounced, size = request.size()] {
    const TransferPlan plan(
        {buf::SegmentCursor(kept->segments()), FileOffset(hidden(4096ul)), size}, kLimits,
        {.max_bounce = kSize});
    GUESTIO_CHECK(plan.bounced_bytes() == bounced && plan.window_bytes() == size,
                  "the expected plan");
    benchmark::DoNotOptimize(plan.pieces().data());
  });
}

}  // namespace

void add_plan_rows(Rows& rows) {
  for (const std::size_t size : {std::size_t{4096}, kSize}) {
    for (const Layout layout : kLayouts) {
      add_plan(rows, fmt::format("plan/all_direct/{}/{}", size, to_text(layout)),
               mem::PagedRange::from_whole_pages(pages(layout, size / kPageSize)), 0);
    }
  }
  // Two non-adjacent extents with a boundary inside a block.
  static const std::array extents{
      AddressRange::from_checked(Gpa(kStart), kSize / 2 + kBlock / 2),
      AddressRange::from_checked(Gpa(2 * kStart + kBlock / 2), kSize / 2 - kBlock / 2)};
  const auto joint = mem::AddressRanges::from_ranges(extents);
  require(joint);
  add_plan(rows, fmt::format("plan/one_block_bounced/{}", kSize), *joint, kBlock);
  // Misaligned by one byte, contiguous and in pages.
  add_plan(rows, fmt::format("plan/all_bounced/{}/contig", kSize),
           AddressRange::from_checked(Gpa(kStart + 1), kSize), kSize);
  const auto shifted =
      mem::PagedRange::from_pages(1, kSize, pages(Layout::kScattered, kSize / kPageSize + 1));
  require(shifted);
  add_plan(rows, fmt::format("plan/all_bounced/{}/scatter", kSize), *shifted, kSize);
}

}  // namespace guestio::bench
