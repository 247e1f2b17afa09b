// SPDX-License-Identifier: MIT
// Splits PagedRange and PagedRanges, compared with a flat list of all their positions.
#include <optional>
#include <utility>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/mem/paged_range.h"
#include "guestio/mem/paged_ranges.h"

namespace guestio::fuzz {
namespace {

using mem::AddressRange;
using mem::PagedRange;
using mem::PagedRanges;

constexpr std::uint64_t kGpns = std::uint64_t{1} << 52;  // page numbers with addresses
constexpr std::size_t kMaxPages = 5;
constexpr std::size_t kMaxRanges = 8;
constexpr std::size_t kMaxOperations = 48;

/// For loops over all positions, which would otherwise dominate the time.
#define GUESTIO_FUZZ_PLAIN [[clang::no_sanitize("address", "undefined", "coverage")]]

/// The position of one byte of a buffer, and its range in a list.
struct Position {
  std::uint64_t gpn;
  std::uint64_t byte;
  std::size_t piece;
};
using Window = std::span<const Position>;

struct Runs {
  std::vector<AddressRange> runs;
  std::optional<std::uint64_t> bad_gpn;
};

/// The model: walks the positions one by one.
GUESTIO_FUZZ_PLAIN Runs runs_of(Window window) {
  Runs result;
  const Position* const all = window.data();
  const std::size_t count = window.size();
  std::size_t first = 0;  // of the current run
  for (std::size_t i = 0; i < count && !result.bad_gpn; ++i) {
    if (all[i].gpn >= kGpns) result.bad_gpn = all[i].gpn;
    const bool goes_on = i + 1 < count && all[i + 1].piece == all[i].piece &&
                         all[i + 1].gpn - all[i].gpn == (all[i + 1].byte == 0 ? 1 : 0) &&
                         all[i + 1].gpn < kGpns;
    if (goes_on || result.bad_gpn) continue;
    const Gpa start(all[first].gpn * kPageSize + all[first].byte);
    result.runs.push_back(AddressRange::from_checked(start, i + 1 - first));
    first = i + 1;
  }
  return result;
}

template <typename Range>
void check_runs(const Range& range, const Runs& expected) {
  std::vector<AddressRange> found;
  const Result<> walked = mem::for_each_run(range, [&](const AddressRange& run) -> Result<> {
    found.push_back(run);
    return {};
  });
  GUESTIO_CHECK(found == expected.runs, "the runs of the model");
  GUESTIO_CHECK(walked.has_value() == !expected.bad_gpn.has_value(), "an error for a bad page");
  if (walked) return;
  GUESTIO_CHECK(walked.error().kind == ErrorKind::kInvalidGpn, "invalid-gpn");
  GUESTIO_CHECK(walked.error().value == *expected.bad_gpn, "the page number in the error");
}

GUESTIO_FUZZ_PLAIN std::vector<std::uint64_t> pages_of(Window window) {
  std::vector<std::uint64_t> pages;
  const Position* const all = window.data();
  for (std::size_t i = 0; i < window.size(); ++i) {
    if (i == 0 || all[i].byte == 0) pages.push_back(all[i].gpn);
  }
  return pages;
}

/// Cheap checks, after every step.
template <typename Range>
void check_quickly(const Range& range, Window window) {
  GUESTIO_CHECK(range.length() == window.size(), "the length of the model");
  GUESTIO_CHECK(range.is_empty() == window.empty(), "empty when the model is");
}

void check(const PagedRange& range, Window window) {
  check_quickly(range, window);
  GUESTIO_CHECK(range.offset() < kPageSize, "invariant 1");
  GUESTIO_CHECK(window.empty() || range.offset() == window[0].byte, "the offset of the model");
  const std::vector<std::uint64_t> pages = pages_of(window);
  GUESTIO_CHECK(range.gpns().size() == pages.size(), "invariant 2");
  for (std::size_t i = 0; i < pages.size(); ++i) {
    GUESTIO_CHECK(range.gpns()[i].raw() == pages[i], "the pages of the model");
  }
  GUESTIO_CHECK(range.single_gpn().has_value() == (pages.size() == 1), "a single page");
  const Runs expected = runs_of(window);
  check_runs(range, expected);
  // The iterator yields the runs of for_each_run(), with the error last.
  std::size_t count = 0;
  bool failed = false;
  for (const Result<AddressRange>& run : range.runs()) {
    GUESTIO_CHECK(!failed, "nothing after an error");
    failed = !run.has_value();
    if (!failed) {
      GUESTIO_CHECK(count < expected.runs.size() && *run == expected.runs[count++],
                    "the runs of the model");
    }
  }
  GUESTIO_CHECK(count == expected.runs.size() && failed == expected.bad_gpn.has_value(),
                "all runs of the model");
}

/// The leading positions in one range.
GUESTIO_FUZZ_PLAIN std::size_t length_of_piece(Window window) {
  const Position* const all = window.data();
  std::size_t length = 1;
  while (length < window.size() && all[length].piece == all[0].piece) ++length;
  return length;
}

void check(const PagedRanges& list, Window window) {
  check_quickly(list, window);
  Window rest = window;
  for (const PagedRange piece : list) {
    GUESTIO_CHECK(!rest.empty(), "no more ranges than the model");
    const std::size_t length = length_of_piece(rest);
    GUESTIO_CHECK(piece.length() == length, "the non-empty ranges of the model");
    check_runs(piece, runs_of(rest.first(length)));
    rest = rest.subspan(length);
  }
  GUESTIO_CHECK(rest.empty(), "all ranges of the model");
  check_runs(list, runs_of(window));
}

/// A range and its part of the flat list.
template <typename Range>
struct Held {
  Range range;
  Window window;
};

bool fits(std::uint64_t offset, std::uint64_t length, Window window) {
  return offset <= window.size() && length <= window.size() - offset;
}

/// One operation on one of the ranges; its result is added to the others.
template <typename Range>
void cut(Program& program, std::vector<Held<Range>>& all) {
  Held<Range>& target = all[program.index(all.size())];
  const auto operation = program.take<std::uint8_t>() % 4;
  const std::uint64_t a = program.around(target.window.size());
  std::optional<Held<Range>> made;
  Result<> result;
  bool expected = a <= target.window.size();
  if (operation == 0) {
    const std::uint64_t b =
        program.around(target.window.size() - std::min(a, target.window.size()));
    expected = fits(a, b, target.window);
    const auto part = target.range.try_subrange(a, b);
    if (part) {
      GUESTIO_CHECK(expected, "an error beyond the window");
      made = Held<Range>{*part, target.window.subspan(a, b)};
      check_quickly(target.range.subrange(a, b), made->window);
    } else {
      result = fail(part.error());
    }
  } else if (operation == 1) {
    result = target.range.try_skip(a);
    if (expected) target.window = target.window.subspan(a);
  } else if (operation == 2) {
    result = target.range.try_truncate(a);
    if (expected) target.window = target.window.first(a);
  } else {
    const auto parts = target.range.try_split(a);
    if (parts) {
      GUESTIO_CHECK(expected, "an error beyond the window");
      check_quickly(parts->front, target.window.first(a));
      made = Held<Range>{parts->back, target.window.subspan(a)};
    } else {
      result = fail(parts.error());
    }
  }
  GUESTIO_CHECK(result.has_value() == expected, "an error beyond the window only");
  GUESTIO_CHECK(expected || result.error().kind == ErrorKind::kOutOfRange, "out-of-range");
  check_quickly(target.range, target.window);
  if (!made) return;
  check_quickly(made->range, made->window);
  if (all.size() < kMaxRanges) {
    all.push_back(*made);
  } else {
    target = *made;
  }
}

/// Takes the first run from one of the ranges.
void pop(Program& program, std::vector<Held<PagedRange>>& all) {
  Held<PagedRange>& target = all[program.index(all.size())];
  const Runs expected = runs_of(target.window);
  const auto run = target.range.pop_front();
  if (!expected.runs.empty()) {
    GUESTIO_CHECK(run.has_value() && run->has_value() && **run == expected.runs[0],
                  "the first run");
    target.window = target.window.subspan((*run)->length());
  } else {
    GUESTIO_CHECK(run.has_value() == expected.bad_gpn.has_value(), "no run of an empty window");
    if (run)
      GUESTIO_CHECK(!run->has_value() && run->error().value == *expected.bad_gpn, "the page");
    target.window = {};
  }
  check_quickly(target.range, target.window);
}

std::vector<Gpn> take_pages(Program& program) {
  std::vector<Gpn> pages(program.index(kMaxPages + 1));
  std::uint64_t last = 0;
  for (Gpn& page : pages) {
    const auto operand = program.take<std::uint8_t>();
    switch (operand & 7) {
      case 0: last = operand >> 3; break;
      case 1: last -= 1; break;
      case 2: last = kGpns - 2 + (operand >> 6); break;
      case 3: last = program.take<std::uint64_t>(); break;
      case 4: break;
      default: last += 1;
    }
    page = Gpn(last);
  }
  return pages;
}

void run(Program program) {
  const std::vector<Gpn> pages = take_pages(program);
  std::vector<Position> positions;
  for (const Gpn page : pages) {
    for (std::uint64_t byte = 0; byte < kPageSize; ++byte)
      positions.push_back({page.raw(), byte, 0});
  }
  const PagedRange whole = PagedRange::from_whole_pages(pages);
  std::vector<Held<PagedRange>> ranges = {{whole, positions}};
  const std::uint64_t offset = program.around(positions.size());
  const std::uint64_t length = program.around(positions.size());
  const auto part = PagedRange::from_pages(offset, length, pages);
  GUESTIO_CHECK(part.has_value() == fits(offset, length, positions), "an error for too few pages");
  if (part) ranges.push_back({*part, Window(positions).subspan(offset, length)});

  std::size_t operations = 0;
  for (std::size_t left = program.index(kMaxOperations); left != 0; --left) {
    ++operations;
    if (program.index(8) == 0) {
      pop(program, ranges);
    } else {
      cut(program, ranges);
    }
  }

  for (const Held<PagedRange>& held : ranges) check(held.range, held.window);

  // The results, as one list.
  std::vector<PagedRange> pieces;
  std::vector<Position> of_list;
  for (const Held<PagedRange>& held : ranges) {
    if (of_list.size() + held.window.size() > 2 * positions.size()) break;  // enough
    for (const Position& here : held.window) {
      of_list.push_back({here.gpn, here.byte, pieces.size()});
    }
    pieces.push_back(held.range);
  }
  const auto list = PagedRanges::from_ranges(pieces);
  GUESTIO_CHECK(list.has_value(), "a list that is not too large");
  check(*list, of_list);
  std::vector<Held<PagedRanges>> lists = {{*list, of_list}};
  while (!program.is_over() && ++operations < kMaxOperations) cut(program, lists);
  for (const Held<PagedRanges>& held : lists) check(held.range, held.window);
}

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  guestio::fuzz::run({data, size});
  return 0;
}
