// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"
#include "guestio/mem/address_range.h"

/// Which pages of the guest were written, for live migration.
namespace guestio::mem {

/// A bitmap with one bit for each guest page of kPageSize, in the layout of vhost: page n is bit
/// n % 8 of byte n / 8. The bitmap is usually shared with a front-end that collects and clears bits
/// while we set them, and that may take the memory away: hence atomic and recoverable operations.
///
///     const auto log = std::make_shared<DirtyLog>(*DirtyLog::for_memory(ByteCount(size)));
///     const GuestMemory logged = memory.with_dirty_log(log);  // marks what is written through it
///
/// Bits are only set after the bytes were written and before anybody is told of it.
/// Threads: any.
class DirtyLog {
 public:
  /// Over `bitmap`, which stays mapped as long as this lives. Bits that are set stay set.
  explicit DirtyLog(Mapping bitmap) noexcept : bitmap_(std::move(bitmap)) {}
  /// Over a bitmap of its own for the guest addresses [0, memory). Errors: host, invalid-argument.
  static Result<DirtyLog> for_memory(ByteCount memory);

  /// Marks every page that the range touches. Errors: out-of-range when the bitmap is too short
  /// (pages before that are marked), memory-fault when it was taken away.
  [[nodiscard]] Result<> mark(AddressRange written) const noexcept;
  /// Whether a page is marked; false outside the bitmap.
  [[nodiscard]] bool is_marked(Gpn page) const noexcept;
  /// Takes the marks of 8 pages, as a collector does. Errors: as mark(), busy.
  [[nodiscard]] Result<std::byte> take(std::uint64_t byte_index) const noexcept;

 private:
  Mapping bitmap_;
};

}  // namespace guestio::mem
