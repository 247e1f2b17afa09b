// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/memory_reader.h"

/// Sequential writing of guest memory.
namespace guestio::mem {

/// Writes a range of guest memory sequentially.
///
/// Each call writes all bytes or returns an error (some bytes may then be written, see
/// GuestMemory); only success advances the position. A call for zero bytes always succeeds. Errors:
/// read-only before any other, out-of-range past the end of the range, and those of GuestMemory.
///
/// Lifetime: the memory and the list behind the range outlive it. Threads: one.
template <GuestRange Range>
class MemoryWriter {
 public:
  MemoryWriter(const GuestMemory& memory, const Range& range) noexcept
      : MemoryWriter(memory, range, Access::kWrite) {}

  /// A writer for memory the device may only read: without capacity, and every write fails with
  /// read-only. The same holds for its limit().
  [[nodiscard]] static MemoryWriter read_only(const GuestMemory& memory) noexcept {
    return MemoryWriter(memory, Range(), Access::kRead);
  }

  /// Unwritten bytes; 0 for a read-only writer.
  [[nodiscard]] std::uint64_t remaining() const noexcept { return rest_.length(); }
  /// The unwritten part of the range.
  [[nodiscard]] const Range& rest() const noexcept { return rest_; }

  // Inlined, so that a writer made for one call stays in registers.
  [[nodiscard, gnu::always_inline]] Result<> write(std::span<const std::byte> from) noexcept {
    if (Result<> good = check(from.size()); !good) [[unlikely]]
      return good;
    if (Result<> written = memory_->write(rest_, from); !written) [[unlikely]]
      return written;
    drop(from.size());
    return {};
  }
  [[nodiscard]] Result<> fill(std::byte value, std::uint64_t count) noexcept {
    if (Result<> good = check(count); !good) return good;
    if (Result<> filled = memory_->fill(rest_, value, count); !filled) return filled;
    drop(count);
    return {};
  }
  [[nodiscard]] Result<> zero(std::uint64_t count) noexcept { return fill(std::byte{0}, count); }
  /// Skips bytes without writing them.
  [[nodiscard]] Result<> skip(std::uint64_t count) noexcept {
    if (Result<> good = check(count); !good) return good;
    drop(count);
    return {};
  }
  template <Plain T>
  [[nodiscard]] Result<> write_value(const T& value) noexcept {
    return write(std::as_bytes(std::span(&value, 1)));
  }

  /// A separate writer for the next `count` bytes, or for all if there are fewer. This writer does
  /// not advance.
  [[nodiscard]] MemoryWriter limit(std::uint64_t count) const noexcept {
    return {*memory_, rest_.subrange(0, std::min(count, remaining())), access_};
  }

 private:
  MemoryWriter(const GuestMemory& memory, const Range& range, Access access) noexcept
      : memory_(&memory), rest_(range), access_(access) {}

  [[nodiscard, gnu::always_inline]] Result<> check(std::uint64_t count) const noexcept {
    if (access_ != Access::kWrite && count != 0) [[unlikely]]
      return fail(ErrorKind::kReadOnly, "write to device-readable memory");
    if (count > remaining()) [[unlikely]]
      return internal::fail_outside_window(0, count, remaining());
    return {};
  }
  [[gnu::always_inline]] void drop(std::uint64_t count) noexcept {
    rest_ = rest_.subrange(count, rest_.length() - count);
  }

  const GuestMemory* memory_;
  Range rest_;
  Access access_;
};

}  // namespace guestio::mem
