// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"
#include "guestio/mem/address_range.h"

/// Dirty page tracking for live migration.
namespace guestio::mem {

/// A bitmap with one bit for each guest page of kPageSize, in the vhost layout: page n is bit n % 8
/// of byte n / 8. The front-end usually shares it, collects and clears bits concurrently, and may
/// truncate the memory. The operations are therefore atomic and recover from faults.
///
///     const auto log = std::make_shared<DirtyLog>(*DirtyLog::for_memory(ByteCount(size)));
///     const GuestMemory logged = memory.with_dirty_log(log);  // marks its writes
///
/// A bit is set after the bytes are written and before their completion is visible.
/// Threads: any.
class DirtyLog {
 public:
  /// Takes ownership of a mapped bitmap and keeps its bits.
  explicit DirtyLog(Mapping bitmap) noexcept : bitmap_(std::move(bitmap)) {}
  /// Allocates a bitmap for the guest addresses [0, memory). Errors: host, invalid-argument.
  static Result<DirtyLog> for_memory(ByteCount memory);

  /// Marks every page of the range. Errors: out-of-range if the bitmap is too short (its pages are
  /// marked), memory-fault if it was truncated.
  [[nodiscard]] Result<> mark(AddressRange written) const noexcept;
  /// False outside the bitmap.
  [[nodiscard]] bool is_marked(Gpn page) const noexcept;
  /// Fetches and clears the marks of 8 pages, as a collector does. Errors: as mark(), busy.
  [[nodiscard]] Result<std::byte> take(std::uint64_t byte_index) const noexcept;

 private:
  Mapping bitmap_;
};

}  // namespace guestio::mem
