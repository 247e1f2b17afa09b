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

/// Writes a range of guest memory front to back.
///
/// Each call writes everything or returns an error (bytes may then have been written, see
/// GuestMemory); the position moves only on success. A call for no bytes succeeds always. Errors:
/// read-only before any other, out-of-range when the range does not take so much any more, and
/// those of GuestMemory.
///
/// Lifetime: the memory, and the list that the range is a view of, must outlive it. One thread.
template <GuestRange Range>
class MemoryWriter {
 public:
  MemoryWriter(const GuestMemory& memory, const Range& range) noexcept
      : MemoryWriter(memory, range, Access::kWrite) {}

  /// A writer for memory that the device may only read: it has room for nothing and says why. So
  /// has every limit() of it.
  [[nodiscard]] static MemoryWriter read_only(const GuestMemory& memory) noexcept {
    return MemoryWriter(memory, Range(), Access::kRead);
  }

  /// Bytes that there is still room for; 0 when nothing may be written.
  [[nodiscard]] std::uint64_t remaining() const noexcept { return rest_.length(); }
  /// The part of the range that is still to be written.
  [[nodiscard]] const Range& rest() const noexcept { return rest_; }

  // Inlined, so that a writer that is made for one call lies in registers.
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
  /// Leaves bytes as they are.
  [[nodiscard]] Result<> skip(std::uint64_t count) noexcept {
    if (Result<> good = check(count); !good) return good;
    drop(count);
    return {};
  }
  template <Plain T>
  [[nodiscard]] Result<> write_value(const T& value) noexcept {
    return write(std::as_bytes(std::span(&value, 1)));
  }

  /// A writer of its own for the next `count` bytes, or for all when there are fewer. This one
  /// does not move.
  [[nodiscard]] MemoryWriter limit(std::uint64_t count) const noexcept {
    return {*memory_, rest_.subrange(0, std::min(count, remaining())), access_};
  }

 private:
  MemoryWriter(const GuestMemory& memory, const Range& range, Access access) noexcept
      : memory_(&memory), rest_(range), access_(access) {}

  [[nodiscard, gnu::always_inline]] Result<> check(std::uint64_t count) const noexcept {
    if (access_ != Access::kWrite && count != 0) [[unlikely]]
      return fail(ErrorKind::kReadOnly, "write to memory that the device may only read");
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
