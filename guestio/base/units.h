// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <optional>

#include "guestio/base/align.h"

/// Strong numbers: one type for each address space and unit. Each has meaningful operations only,
/// and one conversion to the plain number, raw().
namespace guestio {

namespace internal {

/// The common base: explicit construction, named conversion, ordering.
template <typename Derived>
class StrongNumber {
 public:
  constexpr StrongNumber() noexcept = default;
  constexpr explicit StrongNumber(std::uint64_t raw) noexcept : raw_(raw) {}
  [[nodiscard]] constexpr std::uint64_t raw() const noexcept { return raw_; }
  friend constexpr auto operator<=>(const StrongNumber&, const StrongNumber&) noexcept = default;
  friend constexpr bool operator==(const StrongNumber&, const StrongNumber&) noexcept = default;

 private:
  std::uint64_t raw_ = 0;
};

}  // namespace internal

/// A number of bytes.
class ByteCount : public internal::StrongNumber<ByteCount> {
 public:
  using StrongNumber::StrongNumber;
  [[nodiscard]] constexpr std::optional<ByteCount> plus(ByteCount other) const noexcept {
    const auto sum = checked_add(raw(), other.raw());
    return sum ? std::optional(ByteCount(*sum)) : std::nullopt;
  }
};

/// A byte address in some address space.
template <typename Derived>
class ByteAddress : public internal::StrongNumber<Derived> {
 public:
  using internal::StrongNumber<Derived>::StrongNumber;
  /// The address plus `length`; nullopt on overflow.
  [[nodiscard]] constexpr std::optional<Derived> plus(std::uint64_t length) const noexcept {
    const auto sum = checked_add(this->raw(), length);
    return sum ? std::optional(Derived(*sum)) : std::nullopt;
  }
  /// As plus(), for sums checked before.
  [[nodiscard]] constexpr Derived plus_unchecked(std::uint64_t length) const noexcept {
    return Derived(this->raw() + length);
  }
  /// Bytes from `start` to here. Requires: start <= *this.
  [[nodiscard]] constexpr std::uint64_t offset_from(Derived start) const noexcept {
    return this->raw() - start.raw();
  }
  [[nodiscard]] constexpr bool is_aligned_to(std::uint64_t alignment) const noexcept {
    return is_aligned(this->raw(), alignment);
  }
};

/// A guest physical address.
class Gpa : public ByteAddress<Gpa> {
 public:
  using ByteAddress::ByteAddress;
};

/// A virtual address of the front-end's process, as in vhost-user messages.
class FrontendAddress : public ByteAddress<FrontendAddress> {
 public:
  using ByteAddress::ByteAddress;
};

/// A byte position in a file or on a disk.
class FileOffset : public ByteAddress<FileOffset> {
 public:
  using ByteAddress::ByteAddress;
};

/// A guest page number: a guest physical address divided by kPageSize.
class Gpn : public internal::StrongNumber<Gpn> {
 public:
  using StrongNumber::StrongNumber;
  static constexpr Gpn containing(Gpa address) noexcept { return Gpn(address.raw() >> kPageShift); }
  /// The page's first byte; nullopt on overflow.
  [[nodiscard]] constexpr std::optional<Gpa> to_gpa() const noexcept {
    const auto address = checked_mul(raw(), kPageSize);
    return address ? std::optional(Gpa(*address)) : std::nullopt;
  }
};

/// A position or length on a virtio disk in units of 512 bytes, independent of its block size.
class Sector : public internal::StrongNumber<Sector> {
 public:
  static constexpr std::uint64_t kSize = 512;
  using StrongNumber::StrongNumber;
  [[nodiscard]] constexpr std::optional<FileOffset> to_offset() const noexcept {
    const auto offset = checked_mul(raw(), kSize);
    return offset ? std::optional(FileOffset(*offset)) : std::nullopt;
  }
};

/// Parses a size: "4096", "64k", "1M", "2G", "1T" (powers of 1024, either case, an optional "iB" or
/// "B"). nullopt if malformed or beyond 64 bits.
[[nodiscard]] std::optional<ByteCount> parse_byte_count(std::string_view text) noexcept;

/// A readable size: "1.0 GiB".
[[nodiscard]] std::string format_byte_count(ByteCount count);

}  // namespace guestio

template <typename T>
  requires std::derived_from<T, guestio::internal::StrongNumber<T>>
struct fmt::formatter<T> : fmt::formatter<std::uint64_t> {
  template <typename Context>
  auto format(const T& number, Context& context) const {
    return fmt::formatter<std::uint64_t>::format(number.raw(), context);
  }
};
