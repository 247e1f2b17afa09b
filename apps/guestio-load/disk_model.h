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

/// What a disk must hold if the backend is right: the bytes of a region, block by block, each block
/// either known or not (never written by us, or discarded).
///
/// Requests that are in flight at the same time may finish in any order, so none of them may touch
/// what another one writes: a request reserves its blocks first. The bytes of a block belong to
/// whoever has it reserved; only the reservations themselves are guarded by a lock.
///
/// Threads: any.
class DiskModel {
 public:
  /// Neighbouring blocks, counted from the region's start.
  struct Extent {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
  };
  enum class Access { kRead, kWrite };

  /// The first byte that is not as it should be.
  struct Mismatch {
    FileOffset offset;  ///< on the disk
    std::size_t index;  ///< in what was compared
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

  /// Reserves all blocks or none: readers share, a writer is alone. Requires: inside the region.
  [[nodiscard]] bool try_reserve(const Extent& extent, Access access);
  void release(const Extent& extent, Access access);

  // Requires of all that follow: the extent is reserved, for a write where it changes something,
  // and as many bytes as it has.

  void set(const Extent& extent, std::span<const std::byte> bytes);
  void set_zero(const Extent& extent);
  void forget(const Extent& extent);
  /// Compares what is known. Unknown blocks match anything.
  [[nodiscard]] std::optional<Mismatch> compare(const Extent& extent,
                                                std::span<const std::byte> found) const;
  /// The bytes as they should be; those of unknown blocks mean nothing.
  [[nodiscard]] std::span<const std::byte> expected(const Extent& extent) const;

 private:
  static constexpr std::uint16_t kWriter = 0xffff;

  const DiskRegion region_;
  const std::uint32_t block_size_;
  const std::uint64_t blocks_;
  // each element is its reservation's
  std::vector<std::byte> bytes_;
  std::vector<std::uint8_t> known_;
  std::mutex mutex_;
  // protected by mutex_
  std::vector<std::uint16_t> reserved_;  // readers of each block, or kWriter
};

}  // namespace guestio::load
