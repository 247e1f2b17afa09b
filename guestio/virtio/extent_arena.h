// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "guestio/mem/address_range.h"

/// Storage for the extents of long chains.
namespace guestio::virtio {

/// Blocks of extents for the chains of one queue, in two sizes and limited numbers. A block is
/// allocated on first use and recycled afterwards: a warm queue allocates nothing, and short chains
/// cost nothing.
///
/// Lifetime: outlives its blocks. Threads: one.
class ExtentArena {
 public:
  static constexpr std::size_t kMediumExtents = 128;
  static constexpr std::size_t kMediumBlocks = 256;
  static constexpr std::size_t kHugeBlocks = 8;

  /// A block in use; or empty.
  using Block = std::span<mem::AddressRange>;

  /// `max_extents`: of one chain.
  explicit ExtentArena(std::size_t max_extents);
  ExtentArena(const ExtentArena&) = delete;
  ExtentArena& operator=(const ExtentArena&) = delete;
  /// Requires: no block in use.
  ~ExtentArena();

  /// A block of at least `extents`; an empty one if all are in use or the host is out of memory.
  /// Requires: extents <= max_extents.
  [[nodiscard]] Block acquire(std::size_t extents) noexcept;
  /// Requires: `block` is from acquire(), and not empty.
  void release(Block block) noexcept;

  [[nodiscard]] std::size_t blocks_in_use() const noexcept { return medium_.in_use + huge_.in_use; }

 private:
  using Storage = std::unique_ptr<mem::AddressRange[]>;

  /// All blocks of one size.
  struct Pool {
    Pool(std::size_t block_extents, std::size_t max_blocks);

    Block acquire() noexcept;
    void release(Block block) noexcept;

    const std::size_t block_extents;
    const std::size_t max_blocks;
    std::vector<Storage> owned;            // all blocks
    std::vector<mem::AddressRange*> free;  // not in use
    std::size_t in_use = 0;
  };

  Pool medium_;
  Pool huge_;
};

}  // namespace guestio::virtio
