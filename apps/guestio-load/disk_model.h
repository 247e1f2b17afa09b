// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "apps/guestio-load/workload.h"
#include "guestio/base/units.h"

namespace guestio::load {

/// The expected content of a disk region. Each block is known or unknown (never written by us, or
/// discarded).
///
/// Concurrent requests complete in any order, so their written blocks must not overlap: each
/// request reserves its blocks first. The bytes of a block belong to the holder of its reservation.
/// A lock guards the reservations only.
///
/// Threads: any.
class DiskModel {
 public:
  /// Contiguous blocks, counted from the start of the region.
  struct Extent {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
  };
  enum class Access { kRead, kWrite };

  /// The first wrong byte.
  struct Mismatch {
    FileOffset offset;  ///< on the disk
    std::size_t index;  ///< in the compared bytes
    std::byte expected;
    std::byte found;
  };

  DiskModel(DiskRegion region, std::uint32_t block_size);

  [[nodiscard]] std::uint64_t blocks() const noexcept { return blocks_; }
  [[nodiscard]] std::uint32_t block_size() const noexcept { return block_size_; }
  [[nodiscard]] FileOffset offset_of(const Extent& extent) const noexcept {
    return region_.start.plus_unchecked(extent.first * block_size_);
  }
  [[nodiscard]] std::size_t bytes_of(const Extent& extent) const noexcept {
    return static_cast<std::size_t>(extent.count * block_size_);
  }

  /// Reserves all blocks or none: shared by readers, exclusive for a writer. Requires: inside the
  /// region.
  [[nodiscard]] bool try_reserve(const Extent& extent, Access access);
  void release(const Extent& extent, Access access);

  // All of the following require a reservation of the extent, for writing where they change it, and
  // exactly its number of bytes.

  void set(const Extent& extent, std::span<const std::byte> bytes);
  void set_zero(const Extent& extent);
  void forget(const Extent& extent);
  /// Compares the known blocks. Unknown blocks match anything.
  [[nodiscard]] std::optional<Mismatch> compare(const Extent& extent,
                                                std::span<const std::byte> found) const;
  /// The expected bytes; undefined in unknown blocks.
  [[nodiscard]] std::span<const std::byte> expected(const Extent& extent) const;

 private:
  static constexpr std::uint16_t kWriter = 0xffff;

  const DiskRegion region_;
  const std::uint32_t block_size_;
  const std::uint64_t blocks_;
  // each element belongs to the holder of its reservation
  std::vector<std::byte> bytes_;
  std::vector<std::uint8_t> known_;
  std::mutex mutex_;
  // protected by mutex_
  std::vector<std::uint16_t> reserved_;  // readers of each block, or kWriter
};

}  // namespace guestio::load
