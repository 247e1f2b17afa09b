// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "guestio/mem/address_range.h"

/// Room for the extents of chains that are too long to stand inside their Chain.
namespace guestio::virtio {

/// Blocks of extents for the chains of one queue, in two sizes and bounded in number. A block is
/// allocated when it is first wanted and recycled from then on, so a queue that has warmed up
/// allocates nothing, and a driver that sends only short chains costs nothing.
///
/// Lifetime: outlives every block taken from it. Threads: one.
class ExtentArena {
 public:
  static constexpr std::size_t kMediumExtents = 128;
  static constexpr std::size_t kMediumBlocks = 256;
  static constexpr std::size_t kHugeBlocks = 8;

  /// A block on loan. Empty when there is none.
  using Block = std::span<mem::AddressRange>;

  /// `longest` is the most extents a chain can have.
  explicit ExtentArena(std::size_t longest);
  ExtentArena(const ExtentArena&) = delete;
  ExtentArena& operator=(const ExtentArena&) = delete;
  /// Asserts that every block is back.
  ~ExtentArena();

  /// A block of at least `extents`, or an empty one: all are out, or the host is out of memory.
  /// Requires: extents <= longest.
  [[nodiscard]] Block acquire(std::size_t extents) noexcept;
  /// Requires: `block` came from acquire() and is not empty.
  void release(Block block) noexcept;

  [[nodiscard]] std::size_t blocks_out() const noexcept { return medium_.out + huge_.out; }

 private:
  using Storage = std::unique_ptr<mem::AddressRange[]>;

  /// All blocks of one size.
  struct Shelf {
    Shelf(std::size_t block_extents, std::size_t most);

    Block acquire() noexcept;
    void release(Block block) noexcept;

    const std::size_t block_extents;
    const std::size_t most;
    std::vector<Storage> owned;            // every block ever made
    std::vector<mem::AddressRange*> free;  // those that are home
    std::size_t out = 0;
  };

  Shelf medium_;
  Shelf huge_;
};

}  // namespace guestio::virtio
