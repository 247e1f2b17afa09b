// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

#include "guestio/base/align.h"
#include "guestio/base/check.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"

/// Byte ranges of guest physical address space.
namespace guestio::mem {

namespace internal {
/// Selects a constructor without checks: the caller has established the invariants of the range.
struct Unchecked {};
inline constexpr Unchecked kUnchecked;
}  // namespace internal

/// A half-open range of guest bytes, [start, start + length).
///
/// Invariants:
///  1. start + length is at most 2^64, so no range wraps around.
///
/// A range may end with the last byte of the 64-bit space; end() is then nullopt. An empty range
/// has a position too: that of a cursor.
class AddressRange {
 public:
  constexpr AddressRange() noexcept = default;

  /// Errors: out-of-range beyond the 64-bit space.
  [[nodiscard]] static constexpr Result<AddressRange> from_start_and_length(
      Gpa start, std::uint64_t length) noexcept {
    if (!fits(start, length)) [[unlikely]] {
      return fail(ErrorKind::kOutOfRange, "guest address range", length, ~start.raw());
    }
    return AddressRange(internal::kUnchecked, start, length);
  }
  /// Errors: invalid-argument if `end` is less than `start`.
  [[nodiscard]] static constexpr Result<AddressRange> from_start_and_end(Gpa start,
                                                                         Gpa end) noexcept {
    if (end < start) return fail(ErrorKind::kInvalidArgument, "guest address range", end.raw());
    return AddressRange(internal::kUnchecked, start, end.offset_from(start));
  }
  /// As from_start_and_length(), for values checked before.
  [[nodiscard]] static constexpr AddressRange from_checked(Gpa start,
                                                           std::uint64_t length) noexcept {
    GUESTIO_CHECK(fits(start, length), "a guest address range inside the 64-bit space");
    return AddressRange(internal::kUnchecked, start, length);
  }
  /// For other ranges of this room. Requires: the bytes are inside the 64-bit space.
  constexpr AddressRange(internal::Unchecked, Gpa start, std::uint64_t length) noexcept
      : start_(start), length_(length) {}

  [[nodiscard]] constexpr Gpa start() const noexcept { return start_; }
  [[nodiscard]] constexpr std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] constexpr bool is_empty() const noexcept { return length_ == 0; }
  /// The address after the last byte; nullopt for 2^64.
  [[nodiscard]] constexpr std::optional<Gpa> end() const noexcept { return start_.plus(length_); }
  /// The address of the last byte. Requires: the range is not empty.
  [[nodiscard]] constexpr Gpa last() const noexcept { return start_.plus_unchecked(length_ - 1); }

  [[nodiscard]] constexpr bool contains(Gpa address) const noexcept {
    return address >= start_ && address.offset_from(start_) < length_;
  }
  /// Whether this range holds every byte of `other`. Every range contains an empty one.
  [[nodiscard]] constexpr bool contains(const AddressRange& other) const noexcept {
    return other.is_empty() || (contains(other.start_) && contains(other.last()));
  }
  [[nodiscard]] constexpr bool overlaps(const AddressRange& other) const noexcept {
    return !is_empty() && !other.is_empty() && start_ <= other.last() && other.start_ <= last();
  }

  /// The bytes [offset, offset + length) of this range. Errors: out-of-range.
  [[nodiscard]] constexpr Result<AddressRange> try_subrange(std::uint64_t offset,
                                                            std::uint64_t length) const noexcept {
    if (!fits_within(offset, length, length_)) [[unlikely]] {
      return fail(ErrorKind::kOutOfRange, "subrange of a guest address range", length,
                  offset <= length_ ? length_ - offset : 0);
    }
    return AddressRange(internal::kUnchecked, start_.plus_unchecked(offset), length);
  }
  /// As try_subrange(). Requires: offset + length <= length().
  [[nodiscard]] constexpr AddressRange subrange(std::uint64_t offset,
                                                std::uint64_t length) const noexcept {
    GUESTIO_CHECK(fits_within(offset, length, length_), "a subrange inside the range");
    return AddressRange(internal::kUnchecked, start_.plus_unchecked(offset), length);
  }

  friend constexpr bool operator==(const AddressRange&, const AddressRange&) noexcept = default;

 private:
  static constexpr bool fits(Gpa start, std::uint64_t length) noexcept {
    // ~start is the number of bytes after the one at start.
    return length == 0 || length - 1 <= ~start.raw();
  }

  Gpa start_;
  std::uint64_t length_ = 0;
};

static_assert(sizeof(AddressRange) == 16);
static_assert(std::is_trivially_copyable_v<AddressRange>);

}  // namespace guestio::mem
