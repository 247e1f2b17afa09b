// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>

#include "guestio/mem/guest_memory_table.h"

/// Checks before an access and after a fault. For the sources guest_memory*.cc only.
namespace guestio::mem::internal {

/// Retries of a backing without progress.
inline constexpr int kMaxRetries = 8;

/// Bytes from the front of a piece to the end of the page that it begins in. Pages are those of the
/// backing: that is what bitmaps and mappings count.
[[nodiscard]] inline std::uint64_t length_in_page(const RegionSlice& slice) noexcept {
  return std::min(slice.length, kPageSize - slice.backing_offset() % kPageSize);
}

[[nodiscard]] inline bool is_allowed(AccessBitmap bitmap, std::uint64_t offset) noexcept {
  const std::uint64_t page = offset / kPageSize;
  if (page / 64 >= bitmap.size()) return false;
  return ((bitmap[page / 64].load(std::memory_order_relaxed) >> (page % 64)) & 1) != 0;
}

/// How many of the bytes [offset, offset + length) lie before the first denied page.
[[nodiscard]] inline std::uint64_t allowed_bytes(AccessBitmap bitmap, std::uint64_t offset,
                                                 std::uint64_t length) noexcept {
  std::uint64_t allowed = 0;
  while (allowed < length && is_allowed(bitmap, offset + allowed)) {
    allowed += kPageSize - (offset + allowed) % kPageSize;
  }
  return std::min(allowed, length);
}

[[nodiscard]] inline std::unexpected<Error> fail_fault(const RegionSlice& slice,
                                                       PageFault::Cause cause) noexcept {
  return cause == PageFault::Cause::kDenied
             ? fail(ErrorKind::kAccessDenied, "guest memory", slice.address().raw())
             : fail(ErrorKind::kMemoryFault, "guest memory", slice.address().raw());
}

[[nodiscard]] inline Result<> check_writable(const RegionSlice& slice, Access access) noexcept {
  if (access == Access::kRead || slice.region->writable) return {};
  return fail(ErrorKind::kReadOnly, "write to guest memory", slice.address().raw());
}

/// Passes faults to the backing, and limits retries without progress.
class FaultHandling {
 public:
  [[nodiscard]] FaultAction decide(const RegionSlice& slice, Access access,
                                   PageFault::Cause cause) noexcept {
    const PageFault fault{slice.backing_offset(), length_in_page(slice), access, cause};
    const FaultAction action = slice.region->backing->on_page_fault(fault);
    if (action == FaultAction::kRetry && ++retries_ > kMaxRetries) return FaultAction::kFail;
    return action;
  }
  void note_progress() noexcept { retries_ = 0; }

 private:
  int retries_ = 0;
};

}  // namespace guestio::mem::internal
