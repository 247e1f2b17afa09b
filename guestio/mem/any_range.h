// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <utility>

#include "guestio/mem/paged_ranges.h"

/// One type for all kinds of guest ranges.
namespace guestio::mem {

/// Any of the range types, for non-template code over all kinds of buffers. It has their common
/// operations. A view, five words.
class AnyRange {
 public:
  /// The empty window.
  constexpr AnyRange() noexcept = default;
  // Implicit conversions from each kind.
  constexpr AnyRange(const AddressRange& range) noexcept
      : position_(range.start().raw()), length_(range.length()) {}
  constexpr AnyRange(const PagedRange& range) noexcept
      : list_(range.gpns().data()),
        position_(range.offset()),
        length_(range.length()),
        kind_(Kind::kPagedRange) {}
  constexpr AnyRange(const AddressRanges& ranges) noexcept
      : AnyRange(ranges, Kind::kAddressRanges) {}
  constexpr AnyRange(const PagedRanges& ranges) noexcept : AnyRange(ranges, Kind::kPagedRanges) {}

  /// Calls `visitor` with the range and returns its result. Inlined, here and below, so that a
  /// range of a kind known to the compiler stays in registers.
  template <typename Visitor>
  [[gnu::always_inline]] decltype(auto) visit(Visitor&& visitor) const {
    switch (kind_) {
      case Kind::kPagedRange:
        return visitor(
            PagedRange(internal::kUnchecked, static_cast<const Gpn*>(list_), position_, length_));
      case Kind::kAddressRanges: return visitor(as_list<AddressRange>());
      case Kind::kPagedRanges: return visitor(as_list<PagedRange>());
      case Kind::kAddressRange: break;
    }
    return visitor(AddressRange(internal::kUnchecked, Gpa(position_), length_));
  }

  [[nodiscard]] constexpr std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] bool is_empty() const noexcept { return length() == 0; }
  /// The range if it is of that kind; nullopt otherwise.
  template <typename Range>
  [[nodiscard]] std::optional<Range> get_if() const noexcept {
    return visit([](const auto& range) {
      if constexpr (std::same_as<decltype(range), const Range&>) {
        return std::optional<Range>(range);
      } else {
        return std::optional<Range>();
      }
    });
  }

  /// The bytes [offset, offset + length) of the window. Errors: out-of-range.
  [[nodiscard]] Result<AnyRange> try_subrange(std::uint64_t offset,
                                              std::uint64_t length) const noexcept {
    if (!fits_within(offset, length, this->length())) [[unlikely]] {
      return internal::fail_outside_window(offset, length, this->length());
    }
    return subrange(offset, length);
  }
  /// Requires: the bytes lie in the window.
  [[nodiscard, gnu::always_inline]] AnyRange subrange(std::uint64_t offset,
                                                      std::uint64_t length) const noexcept {
    return visit([&](const auto& range) { return AnyRange(range.subrange(offset, length)); });
  }

 private:
  // A full word: a copy that reads eight bytes after a one-byte store stalls.
  enum class Kind : std::uint64_t { kAddressRange, kPagedRange, kAddressRanges, kPagedRanges };

  template <typename Range>
  constexpr AnyRange(const RangeList<Range>& ranges, Kind kind) noexcept
      : list_(ranges.ranges().data()),
        count_(ranges.ranges().size()),
        position_(ranges.offset()),
        length_(ranges.length()),
        kind_(kind) {}
  template <typename Range>
  [[nodiscard]] RangeList<Range> as_list() const noexcept {
    return {internal::kUnchecked, {static_cast<const Range*>(list_), count_}, position_, length_};
  }

  // Words with the same meaning for all kinds, not a union: they stay in registers.
  const void* list_ = nullptr;  // page numbers or pieces
  std::size_t count_ = 0;       // of the pieces
  std::uint64_t position_ = 0;  // start, offset in the first page, or bytes used of the first piece
  std::uint64_t length_ = 0;
  Kind kind_ = Kind::kAddressRange;
};

template <typename Visit>
[[nodiscard]] inline Result<> for_each_run(const AnyRange& range, Visit&& visit) {
  return range.visit([&](const auto& of_kind) { return for_each_run(of_kind, visit); });
}

}  // namespace guestio::mem
