// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <iterator>
#include <span>

#include "guestio/base/error.h"
#include "guestio/mem/paged_range.h"

/// Several guest ranges as one buffer: a scatter-gather list with arbitrary boundaries.
namespace guestio::mem {

/// A window of bytes into the concatenation of ranges, each a PagedRange or an AddressRange:
///
///     ranges:   [# # # # #] [] [# # #] [# # # # # # #]
///     window:    . . # # #      # # #   # # # . . . .
///                    |<------ length() = 9 -->|
///
/// Both ends may fall inside a range. Empty ranges are valid and skipped by iteration.
///
/// Invariants:
///  1. The window lies inside the ranges.
///  2. If it is not empty, the first range holds its first byte.
///
/// A view, four words: it does not own the list.
template <typename Range>
class RangeList {
 public:
  /// The empty window.
  constexpr RangeList() noexcept = default;

  /// All bytes of the ranges. Errors: too-large if the sum of lengths exceeds 64 bits.
  [[nodiscard]] static Result<RangeList> from_ranges(std::span<const Range> ranges) noexcept {
    std::uint64_t length = 0;
    for (const Range& range : ranges) {
      if (__builtin_add_overflow(length, range.length(), &length)) [[unlikely]] {
        return fail(ErrorKind::kTooLarge, "list of guest ranges", range.length(), ~length);
      }
    }
    RangeList list(internal::kUnchecked, ranges, 0, length);
    list.skip_consumed();
    return list;
  }
  /// For AnyRange. Requires: offset(), length() and ranges() of a list.
  constexpr RangeList(internal::Unchecked, std::span<const Range> ranges, std::uint64_t offset,
                      std::uint64_t length) noexcept
      : ranges_(ranges.data()), count_(ranges.size()), used_(offset), length_(length) {}

  [[nodiscard]] constexpr std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] constexpr bool is_empty() const noexcept { return length_ == 0; }
  /// The offset of the first byte in its range.
  [[nodiscard]] constexpr std::uint64_t offset() const noexcept { return used_; }
  /// The ranges from that of the first byte on; the last ones may lie after the window.
  [[nodiscard]] constexpr std::span<const Range> ranges() const noexcept {
    return {ranges_, count_};
  }

  /// The bytes [offset, offset + length) of the window. Errors: out-of-range.
  [[nodiscard]] Result<RangeList> try_subrange(std::uint64_t offset,
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
    skip_unchecked(count);
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
  [[nodiscard]] Result<Split<RangeList>> try_split(std::uint64_t at) const noexcept {
    if (at > length_) [[unlikely]]
      return internal::fail_outside_window(0, at, length_);
    return Split<RangeList>{subrange_unchecked(0, at), subrange_unchecked(at, length_ - at)};
  }

  // The same for trusted lengths. Requires: they lie in the window; 0 and length() do.
  [[nodiscard]] RangeList subrange(std::uint64_t offset, std::uint64_t length) const noexcept {
    GUESTIO_CHECK(fits_within(offset, length, length_), "a subrange inside the window");
    return subrange_unchecked(offset, length);
  }
  void skip(std::uint64_t count) noexcept {
    GUESTIO_CHECK(count <= length_, "to skip bytes inside the window");
    skip_unchecked(count);
  }
  void truncate(std::uint64_t count) noexcept {
    GUESTIO_CHECK(count <= length_, "to truncate inside the window");
    length_ = count;
  }
  [[nodiscard]] Split<RangeList> split(std::uint64_t at) const noexcept {
    GUESTIO_CHECK(at <= length_, "to split inside the window");
    return {subrange_unchecked(0, at), subrange_unchecked(at, length_ - at)};
  }

  /// The ranges in order, clipped to the window, without empty ones.
  class Iterator {
   public:
    using value_type = Range;
    using difference_type = std::ptrdiff_t;

    [[gnu::always_inline]] constexpr explicit Iterator(const RangeList& list) noexcept
        : next_(list.ranges_), left_(list.length_) {
      if (left_ == 0) return;
      range_ = list.front();
      ++next_;
      left_ -= range_.length();
    }
    [[nodiscard]] constexpr Range operator*() const noexcept { return range_; }
    [[gnu::always_inline]] constexpr Iterator& operator++() noexcept {
      // A later range holds the remaining bytes: the window lies inside the ranges.
      do {
        if (left_ == 0) {
          range_ = Range();
          return *this;
        }
        range_ = *next_++;
      } while (range_.is_empty());
      if (range_.length() > left_) [[unlikely]]
        range_ = range_.subrange(0, left_);
      left_ -= range_.length();
      return *this;
    }
    constexpr void operator++(int) noexcept { ++*this; }
    friend constexpr bool operator==(const Iterator& iterator, std::default_sentinel_t) noexcept {
      return iterator.range_.is_empty();
    }

   private:
    Range range_;
    const Range* next_;   // the next one
    std::uint64_t left_;  // bytes after this one
  };
  [[nodiscard]] constexpr Iterator begin() const noexcept { return Iterator(*this); }
  [[nodiscard]] constexpr std::default_sentinel_t end() const noexcept { return {}; }

 private:
  [[nodiscard]] constexpr std::uint64_t front_length() const noexcept {
    const std::uint64_t there = ranges_->length() - used_;
    return there < length_ ? there : length_;
  }
  /// Requires: not empty.
  [[nodiscard]] Range front() const noexcept {
    if (used_ == 0 && ranges_->length() <= length_) [[likely]]
      return *ranges_;
    return ranges_->subrange(used_, front_length());
  }

  /// Moves to the range of the next byte. Requires: used_ counts from ranges_ and may exceed the
  /// first range.
  constexpr void skip_consumed() noexcept {
    while (count_ != 0 && used_ >= ranges_->length()) {
      used_ -= ranges_->length();
      ++ranges_;
      --count_;
    }
  }
  constexpr void skip_unchecked(std::uint64_t count) noexcept {
    length_ -= count;
    used_ += count;
    skip_consumed();
  }
  [[nodiscard]] constexpr RangeList subrange_unchecked(std::uint64_t offset,
                                                       std::uint64_t length) const noexcept {
    RangeList result = *this;
    result.skip_unchecked(offset);
    result.length_ = length;
    return result;
  }

  const Range* ranges_ = nullptr;
  std::size_t count_ = 0;
  std::uint64_t used_ = 0;  ///< bytes of the first range before the window
  std::uint64_t length_ = 0;
};

/// Page lists one after the other.
using PagedRanges = RangeList<PagedRange>;
/// Address ranges one after the other, as in a virtio descriptor chain.
using AddressRanges = RangeList<AddressRange>;

template <typename Range, typename Visit>
[[nodiscard]] inline Result<> for_each_run(const RangeList<Range>& list, Visit&& visit) {
  for (const Range range : list) {
    if (Result<> visited = for_each_run(range, visit); !visited) [[unlikely]]
      return visited;
  }
  return {};
}

class AnyRange;

/// The range types of guest memory accesses. AnyRange (any_range.h) is any of the others.
template <typename T>
concept GuestRange =
    std::same_as<T, PagedRange> || std::same_as<T, AddressRange> || std::same_as<T, PagedRanges> ||
    std::same_as<T, AddressRanges> || std::same_as<T, AnyRange>;

}  // namespace guestio::mem
