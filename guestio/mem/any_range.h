// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <utility>
#include <variant>

#include "guestio/mem/paged_ranges.h"

/// One type for every way to name guest bytes.
namespace guestio::mem {

/// Any of the range types, for whoever takes buffers of every kind without being a template. It has
/// what they have in common. A view, six words.
class AnyRange {
 public:
  /// The empty window.
  constexpr AnyRange() noexcept = default;
  template <typename Range>
    requires(GuestRange<Range> && !std::same_as<Range, AnyRange>)
  constexpr AnyRange(const Range& range) noexcept : range_(range) {}  // an AnyRange is a Range

  /// Calls `visitor` with the range.
  template <typename Visitor>
  constexpr decltype(auto) visit(Visitor&& visitor) const {
    return std::visit(std::forward<Visitor>(visitor), range_);
  }

  [[nodiscard]] std::uint64_t length() const noexcept {
    return visit([](const auto& range) { return range.length(); });
  }
  [[nodiscard]] bool is_empty() const noexcept { return length() == 0; }
  /// The range itself when it is of that kind, else nullptr.
  template <typename Range>
  [[nodiscard]] const Range* get_if() const noexcept {
    return std::get_if<Range>(&range_);
  }

  /// The bytes [offset, offset + length) of the window. Errors: out-of-range.
  [[nodiscard]] Result<AnyRange> try_subrange(std::uint64_t offset,
                                              std::uint64_t length) const noexcept {
    if (!fits_within(offset, length, this->length())) [[unlikely]] {
      return internal::fail_outside_window(offset, length, this->length());
    }
    return subrange(offset, length);
  }
  /// Requires: they lie in the window.
  [[nodiscard]] AnyRange subrange(std::uint64_t offset, std::uint64_t length) const noexcept {
    return visit([&](const auto& range) { return AnyRange(range.subrange(offset, length)); });
  }

 private:
  std::variant<AddressRange, AddressRanges, PagedRange, PagedRanges> range_;
};

template <typename Visit>
[[nodiscard]] inline Result<> for_each_run(const AnyRange& range, Visit&& visit) {
  return range.visit([&](const auto& of_kind) { return for_each_run(of_kind, visit); });
}

}  // namespace guestio::mem
