// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "guestio/mem/address_range.h"
#include "guestio/mem/backing.h"
#include "guestio/mem/dirty_log.h"

/// The shared state of GuestMemory handles. For the sources guest_memory*.cc only.
namespace guestio::mem::internal {

/// One region, with the properties of its backing cached for accesses.
struct Region {
  std::uint64_t start = 0;        ///< guest address in this memory
  std::uint64_t length = 0;       ///< never 0
  std::byte* host = nullptr;      ///< of the first byte; nullptr if unmapped
  std::uint64_t mapped = 0;       ///< bytes from `start` with a host address
  std::uint64_t offset = 0;       ///< of the first byte in the backing: counts pages in bitmaps
  std::uint64_t log_address = 0;  ///< of the first byte in the dirty log; a view keeps the original
  bool writable = true;
  LockMode lock_mode = LockMode::kNothing;
  std::optional<AccessBitmap> read_bitmap;
  std::optional<AccessBitmap> write_bitmap;
  std::shared_ptr<Backing> backing;

  /// Fully mapped and without bitmaps: an access needs no further check.
  [[nodiscard]] bool is_plain() const noexcept {
    return mapped == length && !read_bitmap && !write_bitmap;
  }
  /// Whether the kernel can use host addresses without a page lock.
  [[nodiscard]] bool is_free_to_lock(Access access) const noexcept {
    return is_plain() && lock_mode == LockMode::kNothing && (writable || access == Access::kRead);
  }
  [[nodiscard]] const std::optional<AccessBitmap>& bitmap(Access access) const noexcept {
    return access == Access::kWrite ? write_bitmap : read_bitmap;
  }
};

/// Invariant: sorted by start, without overlap, and start + length is at most 2^64.
struct Table {
  std::vector<Region> regions;
  std::shared_ptr<const DirtyLog> log;

  /// The region that holds the address, or nullptr.
  [[nodiscard]] const Region* find(std::uint64_t address) const noexcept {
    const Region* first = regions.data();
    std::size_t count = regions.size();
    // Few regions: a linear search predicts better than a binary one.
    if (count > 8) {
      const auto past = std::upper_bound(
          regions.begin(), regions.end(), address,
          [](std::uint64_t value, const Region& region) { return value < region.start; });
      if (past == regions.begin()) return nullptr;
      first = &*(past - 1);
      count = 1;
    }
    for (; count != 0; --count, ++first) {
      if (address - first->start < first->length) return first;
    }
    return nullptr;
  }

  /// The end of the last region, reported as the limit of an address outside.
  [[nodiscard]] std::uint64_t end() const noexcept {
    return regions.empty() ? 0 : regions.back().start + regions.back().length;
  }
};

[[nodiscard]] inline std::unexpected<Error> fail_outside(const Table& table,
                                                         std::uint64_t address) noexcept {
  return fail(ErrorKind::kOutOfRange, "guest address", address, table.end());
}

/// The part of one access in one region.
struct RegionSlice {
  const Region* region;
  std::uint64_t at;  ///< offset in the region
  std::uint64_t length;

  [[nodiscard]] Gpa address() const noexcept { return Gpa(region->start + at); }
  [[nodiscard]] std::byte* host() const noexcept { return region->host + at; }
  [[nodiscard]] std::uint64_t backing_offset() const noexcept { return region->offset + at; }
};

/// Calls `visit(Piece)` for the parts of the range, region by region, until one returns an error.
/// `hint` is a region to try first; it becomes the last one used. Errors: out-of-range.
template <typename Visit>
[[nodiscard]] inline Result<> for_each_slice(const Table& table, const Region*& hint,
                                             const AddressRange& range, Visit&& visit) {
  std::uint64_t address = range.start().raw();
  std::uint64_t left = range.length();
  while (left != 0) {
    if (hint == nullptr || address - hint->start >= hint->length) [[unlikely]] {
      hint = table.find(address);
      if (hint == nullptr) return fail_outside(table, address);
    }
    const std::uint64_t at = address - hint->start;
    const std::uint64_t length = std::min(left, hint->length - at);
    if (Result<> visited = visit(RegionSlice{hint, at, length}); !visited) [[unlikely]]
      return visited;
    address += length;
    left -= length;
  }
  return {};
}

}  // namespace guestio::mem::internal
