// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/mem/address_range.h"

/// A guest buffer, contiguous for its owner and scattered over guest pages.
namespace guestio::mem {

class PagedRange;

/// The two parts of a split window.
template <typename Range>
struct Split {
  Range front;
  Range back;
};

namespace internal {

/// Whether gpns[at], gpns[at + 1], … continue the run that starts with gpns[0]. One branch in all.
template <std::size_t Count>
[[nodiscard, gnu::always_inline]] inline bool continues(const Gpn* gpns, std::size_t at) noexcept {
  const std::uint64_t expected = gpns->raw() + at;
  std::uint64_t difference = 0;
  for (std::size_t i = 0; i < Count; ++i) difference |= gpns[at + i].raw() ^ (expected + i);
  return difference == 0;
}

/// The length of the initial run of consecutive page numbers, at least 1.
/// Requires: count > 0. Not inlined: the calling loops need their registers.
[[nodiscard, gnu::noinline]] inline std::size_t ascending_run(const Gpn* gpns,
                                                              std::size_t count) noexcept {
  constexpr std::size_t kBlock = 8;
  std::size_t run = 1;
  while (run + kBlock <= count && continues<kBlock>(gpns, run)) run += kBlock;
  // The remainder, overlapping numbers already checked: the run nearly always continues.
  if (run > kBlock && count - run < kBlock && continues<kBlock>(gpns, count - kBlock)) return count;
  while (run < count && continues<1>(gpns, run)) ++run;
  return run;
}

/// Page numbers from here on have addresses beyond 64 bits.
inline constexpr std::uint64_t kGpnLimit = std::uint64_t{1} << (64 - kPageShift);

[[nodiscard]] std::unexpected<Error> fail_outside_window(std::uint64_t offset, std::uint64_t length,
                                                         std::uint64_t available) noexcept;
[[nodiscard]] std::unexpected<Error> fail_gpn(Gpn page) noexcept;

}  // namespace internal

/// The result of PagedRange::runs(): an iterable of Result<AddressRange>.
class PagedRuns;

/// A window of bytes into the concatenation of guest pages:
///
///     gpns:     [ gpn 7 ]     [ gpn 8 ]     [ gpn 3 ]     [ gpn 5 ]
///     window:   . . . # #     # # # # #     # # # # #     # # . . .
///               |     |                                      |
///               |<--->| offset() = 3                         |
///                     |<----------- length() = 14 ---------->|
///     runs():   [7:3 ...... 8:4]            [3:0...3:4]   [5:0..5:1]
///
/// Only the first and the last page can be covered partially. So two buffers are one PagedRange
/// only if they meet at a page boundary. Any other list of buffers is a PagedRanges, contiguous
/// bytes are an AddressRange.
///
/// Invariants:
///  1. offset() is less than kPageSize.
///  2. gpns() holds exactly the pages of the window: none if it is empty.
///
/// It only names bytes: GuestMemory, MemoryReader and MemoryWriter access them.
///
///     const auto range = PagedRange::from_pages(offset, length, gpns);
///     if (!range) return fail(range.error());  // beyond its pages
///     MemoryWriter writer(memory, *range);
///
/// A view, three words: it does not own the page numbers. The numbers are untrusted and checked at
/// use: one above 2^52 - 1 has no address and fails with invalid-gpn when the iteration reaches it.
class PagedRange {
 public:
  /// The empty window.
  constexpr PagedRange() noexcept = default;

  /// The bytes [offset, offset + length) of the pages; `offset` may lie past the first page.
  /// Errors: out-of-range beyond the pages.
  [[nodiscard]] static Result<PagedRange> from_pages(std::uint64_t offset, std::uint64_t length,
                                                     std::span<const Gpn> gpns) noexcept {
    const std::uint64_t available = gpns.size() * std::uint64_t{kPageSize};
    if (!fits_within(offset, length, available)) [[unlikely]] {
      return internal::fail_outside_window(offset, length, available);
    }
    return PagedRange(internal::kUnchecked, gpns.data() + offset / kPageSize, offset % kPageSize,
                      length);
  }
  /// All bytes of the pages.
  [[nodiscard]] static PagedRange from_whole_pages(std::span<const Gpn> gpns) noexcept {
    return PagedRange(internal::kUnchecked, gpns.data(), 0, gpns.size() * std::uint64_t{kPageSize});
  }
  /// For AnyRange. Requires: `offset` is less than kPageSize, and `gpns` are the window's pages.
  constexpr PagedRange(internal::Unchecked, const Gpn* gpns, std::uint64_t offset,
                       std::uint64_t length) noexcept
      : gpns_(gpns), offset_(offset), length_(length) {}

  [[nodiscard]] constexpr std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] constexpr bool is_empty() const noexcept { return length_ == 0; }
  /// The offset of the first byte in its page.
  [[nodiscard]] constexpr std::uint64_t offset() const noexcept { return offset_; }
  [[nodiscard]] constexpr std::span<const Gpn> gpns() const noexcept { return {gpns_, pages()}; }
  /// The page if the window lies in a single one; nullopt otherwise.
  [[nodiscard]] constexpr std::optional<Gpn> single_gpn() const noexcept {
    return pages() == 1 ? std::optional(*gpns_) : std::nullopt;
  }

  /// The bytes [offset, offset + length) of the window. Errors: out-of-range.
  [[nodiscard]] Result<PagedRange> try_subrange(std::uint64_t offset,
                                                std::uint64_t length) const noexcept {
    if (!fits_within(offset, length, length_)) [[unlikely]] {
      return internal::fail_outside_window(offset, length, length_);
    }
    return subrange_unchecked(offset, length);
  }
  /// Drops the first `count` bytes. Errors: out-of-range; the window is then unchanged.
  [[nodiscard]] Result<> try_skip(std::uint64_t count) noexcept {
    if (count > length_) [[unlikely]]
      return internal::fail_outside_window(0, count, length_);
    *this = subrange_unchecked(count, length_ - count);
    return {};
  }
  /// Keeps the first `count` bytes only. Errors: as try_skip().
  [[nodiscard]] Result<> try_truncate(std::uint64_t count) noexcept {
    if (count > length_) [[unlikely]]
      return internal::fail_outside_window(0, count, length_);
    length_ = count;
    return {};
  }
  /// The first `at` bytes and the rest. Errors: out-of-range.
  [[nodiscard]] Result<Split<PagedRange>> try_split(std::uint64_t at) const noexcept {
    if (at > length_) [[unlikely]]
      return internal::fail_outside_window(0, at, length_);
    return Split<PagedRange>{subrange_unchecked(0, at), subrange_unchecked(at, length_ - at)};
  }

  // The same for trusted lengths. Requires: they lie in the window; 0 and length() do.
  [[nodiscard, gnu::always_inline]] PagedRange subrange(std::uint64_t offset,
                                                        std::uint64_t length) const noexcept {
    GUESTIO_CHECK(fits_within(offset, length, length_), "a subrange inside the window");
    return subrange_unchecked(offset, length);
  }
  void skip(std::uint64_t count) noexcept {
    GUESTIO_CHECK(count <= length_, "to skip bytes inside the window");
    *this = subrange_unchecked(count, length_ - count);
  }
  void truncate(std::uint64_t count) noexcept {
    GUESTIO_CHECK(count <= length_, "to truncate inside the window");
    length_ = count;
  }
  [[nodiscard]] Split<PagedRange> split(std::uint64_t at) const noexcept {
    GUESTIO_CHECK(at <= length_, "to split inside the window");
    return {subrange_unchecked(0, at), subrange_unchecked(at, length_ - at)};
  }

  /// Removes the longest run of consecutive pages from the front and returns its bytes; nullopt if
  /// the window is empty. Errors: invalid-gpn; the window is then empty, which ends a loop.
  [[nodiscard]] std::optional<Result<AddressRange>> pop_front() noexcept;

  /// All runs, front to back: `for (Result<AddressRange> run : range.runs())`. Ends after an error.
  [[nodiscard]] PagedRuns runs() const noexcept;

 private:
  friend class PagedRuns;
  template <typename Visit>
  friend Result<> for_each_run(PagedRange range, Visit&& visit);

  /// Takes the first run. Returns false if the window is empty or its first page has no address.
  /// Inlined with its callees, so that an iteration keeps its window in registers.
  [[nodiscard, gnu::always_inline]] bool take_run(AddressRange& run) noexcept;
  /// As take_run(), for a first page with an address and a window that continues after it.
  [[gnu::always_inline]] void take_pages(AddressRange& run) noexcept;
  [[gnu::always_inline]] void take(AddressRange& run, std::size_t count,
                                   std::uint64_t bytes) noexcept;

  [[nodiscard]] constexpr std::size_t pages() const noexcept {
    return length_ == 0 ? 0 : (offset_ + length_ + (kPageSize - 1)) / kPageSize;
  }
  [[nodiscard]] constexpr PagedRange subrange_unchecked(std::uint64_t offset,
                                                        std::uint64_t length) const noexcept {
    const std::uint64_t start = offset_ + offset;
    return PagedRange(internal::kUnchecked, gpns_ + start / kPageSize, start % kPageSize, length);
  }

  const Gpn* gpns_ = nullptr;
  std::uint64_t offset_ = 0;
  std::uint64_t length_ = 0;
};

inline bool PagedRange::take_run(AddressRange& run) noexcept {
  if (length_ == 0) return false;
  const std::uint64_t first = gpns_->raw();
  if (first >= internal::kGpnLimit) [[unlikely]]
    return false;
  const std::uint64_t in_page = kPageSize - offset_;
  // The next number is read only if the window continues into its page.
  if (length_ <= in_page || gpns_[1].raw() != first + 1) {
    take(run, 1, length_ < in_page ? length_ : in_page);
  } else {
    take_pages(run);
  }
  return true;
}

inline void PagedRange::take_pages(AddressRange& run) noexcept {
  const std::uint64_t first = gpns_->raw();
  // A run ends at the last page with an address; the next call meets the invalid number.
  std::size_t count = pages();
  if (count > internal::kGpnLimit - first) [[unlikely]]
    count = internal::kGpnLimit - first;
  count = internal::ascending_run(gpns_, count);
  const std::uint64_t bytes = count * kPageSize - offset_;
  take(run, count, bytes < length_ ? bytes : length_);
}

inline void PagedRange::take(AddressRange& run, std::size_t count, std::uint64_t bytes) noexcept {
  run = AddressRange(internal::kUnchecked, Gpa((gpns_->raw() << kPageShift) + offset_), bytes);
  gpns_ += count;
  offset_ = 0;
  length_ -= bytes;
}

inline std::optional<Result<AddressRange>> PagedRange::pop_front() noexcept {
  AddressRange run;
  if (take_run(run)) [[likely]]
    return run;
  if (length_ == 0) return std::nullopt;
  length_ = 0;
  return internal::fail_gpn(*gpns_);
}

class PagedRuns {
 public:
  class Iterator {
   public:
    using value_type = Result<AddressRange>;
    using difference_type = std::ptrdiff_t;

    [[gnu::always_inline]] explicit Iterator(const PagedRange& range) noexcept : rest_(range) {
      ++*this;
    }
    // Constructed on access, so that a loop over valid numbers constructs no error.
    [[nodiscard, gnu::always_inline]] value_type operator*() const noexcept {
      if (state_ == State::kRun) [[likely]]
        return run_;
      return internal::fail_gpn(rest_.gpns().front());
    }
    [[gnu::always_inline]] Iterator& operator++() noexcept {
      if (state_ == State::kRun && rest_.take_run(run_)) [[likely]]
        return *this;
      state_ = state_ == State::kRun && !rest_.is_empty() ? State::kError : State::kEnd;
      return *this;
    }
    void operator++(int) noexcept { ++*this; }
    friend bool operator==(const Iterator& iterator, std::default_sentinel_t) noexcept {
      return iterator.state_ == State::kEnd;
    }

   private:
    enum class State : std::uint8_t { kRun, kError, kEnd };

    PagedRange rest_;
    AddressRange run_;
    State state_ = State::kRun;
  };

  explicit PagedRuns(const PagedRange& range) noexcept : range_(range) {}
  [[nodiscard]] Iterator begin() const noexcept { return Iterator(range_); }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  PagedRange range_;
};

inline PagedRuns PagedRange::runs() const noexcept { return PagedRuns(*this); }

/// Calls `visit(AddressRange)` for each run in order until one returns an error. Returns that
/// error, or invalid-gpn. Defined for every range type of this room.
template <typename Visit>
[[nodiscard]] inline Result<> for_each_run(PagedRange range, Visit&& visit) {
  AddressRange run;
  while (range.take_run(run)) {
    if (Result<> visited = visit(std::as_const(run)); !visited) [[unlikely]]
      return visited;
  }
  if (range.is_empty()) [[likely]]
    return {};
  return internal::fail_gpn(*range.gpns_);
}
template <typename Visit>
[[nodiscard]] inline Result<> for_each_run(const AddressRange& range, Visit&& visit) {
  if (range.is_empty()) return {};
  return visit(range);
}

}  // namespace guestio::mem
