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

/// Types copied byte by byte from and to guest memory. Every bit pattern must be a valid value: no
/// bool, no enumeration with unexpected values.
template <typename T>
concept Plain = std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T>;

/// Reads a range of guest memory sequentially.
///
/// Each call reads all requested bytes or returns an error; only success advances the position. A
/// call for zero bytes always succeeds. Errors: out-of-range past the end of the range, and those
/// of GuestMemory.
///
/// Lifetime: the memory and the list behind the range outlive it. Threads: one.
///
///     MemoryReader reader(memory, range);
///     const auto header = reader.read_value<RequestHeader>();
template <GuestRange Range>
class MemoryReader {
 public:
  MemoryReader(const GuestMemory& memory, const Range& range) noexcept
      : memory_(&memory), rest_(range) {}

  /// Unread bytes.
  [[nodiscard]] std::uint64_t remaining() const noexcept { return rest_.length(); }
  /// The unread part of the range.
  [[nodiscard]] const Range& rest() const noexcept { return rest_; }

  // Inlined, so that a reader made for one call stays in registers.
  [[nodiscard, gnu::always_inline]] Result<> read(std::span<std::byte> to) noexcept {
    if (to.size() > remaining()) [[unlikely]]
      return internal::fail_outside_window(0, to.size(), remaining());
    if (Result<> read = memory_->read(rest_, to); !read) [[unlikely]]
      return read;
    drop(to.size());
    return {};
  }
  /// Skips bytes without reading them.
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
  /// Reads `count` values, a number from an untrusted header. Checks it against the range before
  /// allocating memory.
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

  /// A separate reader for the next `count` bytes, or for all if there are fewer. This reader does
  /// not advance.
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
