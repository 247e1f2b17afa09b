// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"

/// Sequential reading of guest memory.
namespace guestio::mem {

/// What can be copied out of and into guest memory byte by byte. Whatever a guest puts there has to
/// be a valid value: no bool, no enumeration whose other values nobody expects.
template <typename T>
concept Plain = std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T>;

/// Reads a range of guest memory front to back.
///
/// Each call reads everything it was asked for or returns an error; the position moves only on
/// success. A call for no bytes succeeds always. Errors: out-of-range when the range does not hold
/// so much any more, and those of GuestMemory.
///
/// Lifetime: the memory, and the list that the range is a view of, must outlive it. One thread.
///
///     MemoryReader reader(memory, range);
///     const auto header = reader.read_value<RequestHeader>();
template <GuestRange Range>
class MemoryReader {
 public:
  MemoryReader(const GuestMemory& memory, const Range& range) noexcept
      : memory_(&memory), rest_(range) {}

  /// Bytes that are still to be read.
  [[nodiscard]] std::uint64_t remaining() const noexcept { return rest_.length(); }
  /// The part of the range that is still to be read.
  [[nodiscard]] const Range& rest() const noexcept { return rest_; }

  // Inlined, so that a reader that is made for one call lies in registers.
  [[nodiscard, gnu::always_inline]] Result<> read(std::span<std::byte> to) noexcept {
    if (to.size() > remaining()) [[unlikely]]
      return internal::fail_outside_window(0, to.size(), remaining());
    if (Result<> read = memory_->read(rest_, to); !read) [[unlikely]]
      return read;
    drop(to.size());
    return {};
  }
  /// Passes over bytes without looking at them.
  [[nodiscard]] Result<> skip(std::uint64_t count) noexcept {
    if (count > remaining()) return internal::fail_outside_window(0, count, remaining());
    drop(count);
    return {};
  }

  template <Plain T>
  [[nodiscard]] Result<T> read_value() noexcept {
    T value;
    if (Result<> done = read(std::as_writable_bytes(std::span(&value, 1))); !done) {
      return fail(done.error());
    }
    return value;
  }
  /// `count` values, as a guest's header announces them. The range is asked whether it holds them
  /// before memory is allocated.
  template <Plain T>
  [[nodiscard]] Result<std::vector<T>> read_values(std::uint64_t count) {
    if (count > remaining() / sizeof(T)) {
      return internal::fail_outside_window(0, checked_mul(count, sizeof(T)).value_or(~0ull),
                                           remaining());
    }
    std::vector<T> values(count);
    if (Result<> done = read(std::as_writable_bytes(std::span(values))); !done) {
      return fail(done.error());
    }
    return values;
  }

  /// A reader of its own for the next `count` bytes, or for all when there are fewer. This one
  /// does not move.
  [[nodiscard]] MemoryReader limit(std::uint64_t count) const noexcept {
    return {*memory_, rest_.subrange(0, std::min(count, remaining()))};
  }

 private:
  [[gnu::always_inline]] void drop(std::uint64_t count) noexcept {
    rest_ = rest_.subrange(count, rest_.length() - count);
  }

  const GuestMemory* memory_;
  Range rest_;
};

}  // namespace guestio::mem
