// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <chrono>

#include "guestio/buf/bounce_account.h"
#include "guestio/buf/owned_request_buffers.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/mem/format.h"

/// Requests and statistics as text, for logs: `fmt::format("{}", buffers)` gives
///
///     RequestBuffers, OwnedRequestBuffers   writable [0x1000, 0x2000)
///     BounceStatistics                      12 grants, 3 waits (0 cancelled, 150 us in all,
///                                           80 us the longest), at most 131072 bytes
namespace guestio::buf::format {

[[nodiscard]] inline const char* to_text(MemoryAccess access) noexcept {
  return access == MemoryAccess::kWritable ? "writable" : "read-only";
}

template <typename Out>
Out put(Out out, const RequestBuffers& buffers) {
  return fmt::format_to(out, "{} {}", to_text(buffers.access()), buffers.range());
}
template <typename Out>
Out put(Out out, const OwnedRequestBuffers& owned) {
  return fmt::format_to(out, "{} {}", to_text(owned.access()), owned.range());
}
template <typename Out>
Out put(Out out, const BounceStatistics& counts) {
  using std::chrono::duration_cast;
  using std::chrono::microseconds;
  return fmt::format_to(
      out, "{} grants, {} waits ({} cancelled, {} us in all, {} us the longest), at most {} bytes",
      counts.grants, counts.waits, counts.cancelled,
      duration_cast<microseconds>(counts.wait_time).count(),
      duration_cast<microseconds>(counts.longest_wait).count(), counts.high_water);
}

/// The base of all formatters here: put(), without options.
struct Formatter {
  static constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <typename T, typename Context>
  auto format(const T& value, Context& context) const {
    return put(context.out(), value);
  }
};

}  // namespace guestio::buf::format

template <>
struct fmt::formatter<guestio::buf::RequestBuffers> : guestio::buf::format::Formatter {};
template <>
struct fmt::formatter<guestio::buf::OwnedRequestBuffers> : guestio::buf::format::Formatter {};
template <>
struct fmt::formatter<guestio::buf::BounceStatistics> : guestio::buf::format::Formatter {};
