// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "guestio/mem/any_range.h"
#include "guestio/mem/host_segment.h"

/// Ranges and segments as text, for logs: `fmt::format("{}", range)` gives
///
///     AddressRange    [0x1000, 0x2000)
///     PagedRange      6000 bytes from 0x800 of pages 0x7 0x8
///     lists           6100 bytes {[0x1000, 0x2000), [0x9000, 0x97d4)}
///     HostSegment     4096 bytes at 0x7f0012345000
///
/// Lists are truncated after kMaxItems ranges or pages, since the guest chooses their length.
namespace guestio::mem::format {

inline constexpr std::size_t kMaxItems = 16;

template <typename Out>
Out put(Out out, const AddressRange& range) {
  if (const auto end = range.end()) {
    return fmt::format_to(out, "[{:#x}, {:#x})", range.start(), *end);
  }
  return fmt::format_to(out, "[{:#x}, 2^64)", range.start());
}
template <typename Out>
Out put(Out out, const HostSegment& segment) {
  return fmt::format_to(out, "{} bytes at {}", segment.length, fmt::ptr(segment.data));
}
template <typename Out>
Out put(Out out, const PagedRange& range) {
  out = fmt::format_to(out, "{} bytes from {:#x} of pages", range.length(), range.offset());
  const auto gpns = range.gpns();
  for (std::size_t i = 0; i < gpns.size() && i < kMaxItems; ++i) {
    out = fmt::format_to(out, " {:#x}", gpns[i]);
  }
  return gpns.size() > kMaxItems ? fmt::format_to(out, " …") : out;
}
template <typename Out, typename Range>
Out put(Out out, const RangeList<Range>& list) {
  out = fmt::format_to(out, "{} bytes {{", list.length());
  std::size_t count = 0;
  for (const Range range : list) {
    out = fmt::format_to(out, "{}", count == 0 ? "" : ", ");
    if (count++ == kMaxItems) return fmt::format_to(out, "…}}");
    out = put(out, range);
  }
  return fmt::format_to(out, "}}");
}
template <typename Out>
Out put(Out out, const AnyRange& range) {
  return range.visit([&](const auto& of_kind) { return put(out, of_kind); });
}

/// The base of all formatters here: put(), without options.
struct Formatter {
  static constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <typename T, typename Context>
  auto format(const T& value, Context& context) const {
    return put(context.out(), value);
  }
};

}  // namespace guestio::mem::format

template <guestio::mem::GuestRange Range>
struct fmt::formatter<Range> : guestio::mem::format::Formatter {};
template <>
struct fmt::formatter<guestio::mem::HostSegment> : guestio::mem::format::Formatter {};
