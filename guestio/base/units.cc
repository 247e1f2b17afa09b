// SPDX-License-Identifier: MIT
#include "guestio/base/units.h"

#include <array>
#include <charconv>
#include <string_view>

namespace guestio {

namespace {

/// The power of two of a unit letter; nullopt if unknown.
std::optional<unsigned> shift_of_unit(std::string_view unit) noexcept {
  if (unit.empty() || unit == "b" || unit == "B") return 0;
  constexpr std::string_view kLetters = "kmgtpe";
  const auto index = kLetters.find(static_cast<char>(unit.front() | 0x20));
  if (index == std::string_view::npos) return std::nullopt;
  const std::string_view rest = unit.substr(1);
  if (!rest.empty() && rest != "B" && rest != "b" && rest != "iB") return std::nullopt;
  return static_cast<unsigned>(10 * (index + 1));
}

}  // namespace

std::optional<ByteCount> parse_byte_count(std::string_view text) noexcept {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return std::nullopt;
  const auto shift = shift_of_unit(text.substr(static_cast<std::size_t>(end - text.data())));
  if (!shift) return std::nullopt;
  const auto bytes = checked_mul(number, std::uint64_t{1} << *shift);
  return bytes ? std::optional(ByteCount(*bytes)) : std::nullopt;
}

std::string format_byte_count(ByteCount count) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(count.raw());
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", count.raw())
                   : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace guestio
