// SPDX-License-Identifier: MIT
// Rows pr and prs: make, split and walk page lists, without memory accesses.
#include <fmt/core.h>

#include <array>

#include "fixture.h"
#include "guestio/mem/paged_ranges.h"
#include "row.h"

namespace guestio::bench {

namespace {

using mem::AddressRange;
using mem::PagedRange;
using mem::PagedRanges;

/// Visits every run, like a host address look-up.
struct Sum {
  std::uint64_t addresses = 0;
  std::uint64_t bytes = 0;
  void add(const AddressRange& run) noexcept {
    addresses += run.start().raw();
    bytes += run.length();
  }
};

PagedRange range_of(std::span<const Gpn> gpns) {
  const std::span list(hidden(gpns.data()), hidden(gpns.size()));
  const auto range = PagedRange::from_pages(0, gpns.size() * kPageSize, list);
  require(range);
  return *range;
}

void add_walk(Rows& rows, Layout layout, std::size_t count) {
  rows.add(fmt::format("pr/new+ranges/{}/{}", to_text(layout), count), count * kPageSize,
           [gpns = pages(layout, count)] {
             Sum sum;
             for (const Result<AddressRange>& run : range_of(gpns).runs()) {
               require(run);
               sum.add(*run);
             }
             benchmark::DoNotOptimize(sum);
           });
}

void add_split(Rows& rows) {
  constexpr std::size_t kPages = 16;
  rows.add("pr/subrange+split/16", kPages * kPageSize, [whole = range_of(pages({}, kPages))] {
    const auto part =
        whole.try_subrange(hidden(std::uint64_t{0x1123}), hidden(std::uint64_t{0x8765}));
    require(part);
    auto halves = part->try_split(hidden(std::uint64_t{0x3456}));
    require(halves);
    benchmark::DoNotOptimize(*halves);
  });
}

/// 16 ranges of 4 pages each, one list.
void add_list(Rows& rows, Layout layout) {
  constexpr std::size_t kRanges = 16;
  constexpr std::size_t kPagesEach = 4;
  constexpr std::uint64_t kSkipped = 0x5123;
  constexpr std::uint64_t kCut = 0x123;
  std::array<PagedRange, kRanges> pieces;
  for (std::size_t i = 0; i < kRanges; ++i) {
    pieces[i] = PagedRange::from_whole_pages(
        pages(layout, kRanges * kPagesEach).subspan(i * kPagesEach, kPagesEach));
  }
  rows.add(fmt::format("prs/16/{}", to_text(layout)), kRanges * kPagesEach * kPageSize, [pieces] {
    auto list = PagedRanges::from_ranges({hidden(pieces.data()), kRanges});
    require(list);
    require(list->try_skip(hidden(kSkipped)));
    require(list->try_truncate(list->length() - hidden(kCut)));
    Sum sum;
    for (const PagedRange& piece : *list) {
      for (const Result<AddressRange>& run : piece.runs()) {
        require(run);
        sum.add(*run);
      }
    }
    benchmark::DoNotOptimize(sum);
  });
}

}  // namespace

void add_range_rows(Rows& rows) {
  for (const Layout layout : kLayouts) {
    for (const std::size_t count : {1u, 16u, 256u}) add_walk(rows, layout, count);
  }
  add_split(rows);
  for (const Layout layout : kLayouts) add_list(rows, layout);
}

}  // namespace guestio::bench
