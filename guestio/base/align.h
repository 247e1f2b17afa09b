// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>

/// Checked arithmetic on untrusted addresses and lengths.
namespace guestio {

/// The guest page, the unit of a gpn. Independent of the page sizes of host and backing.
inline constexpr std::size_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;

/// Requires: `alignment` is a power of two.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T align_down(T value, std::type_identity_t<T> alignment) noexcept {
  return static_cast<T>(value & ~(alignment - 1));
}

/// Requires: `alignment` is a power of two and the result fits T.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T align_up(T value, std::type_identity_t<T> alignment) noexcept {
  return align_down(static_cast<T>(value + (alignment - 1)), alignment);
}

/// Requires: `alignment` is a power of two.
template <std::unsigned_integral T>
[[nodiscard]] constexpr bool is_aligned(T value, std::type_identity_t<T> alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}

/// The sum; nullopt on overflow.
template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_add(T a, std::type_identity_t<T> b) noexcept {
  T sum{};
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

/// The product; nullopt on overflow.
template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_mul(T a, std::type_identity_t<T> b) noexcept {
  T product{};
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// Whether [start, start + length) ends at or before `limit`. Does not overflow.
[[nodiscard]] constexpr bool fits_within(std::uint64_t start, std::uint64_t length,
                                         std::uint64_t limit) noexcept {
  return start <= limit && length <= limit - start;
}

}  // namespace guestio
