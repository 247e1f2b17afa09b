// SPDX-License-Identifier: MIT
#include "guestio/virtio/extent_arena.h"

#include <new>

#include "guestio/base/check.h"

namespace guestio::virtio {

ExtentArena::ExtentArena(std::size_t max_extents)
    : medium_(kMediumExtents, kMediumBlocks),
      huge_(max_extents, max_extents > kMediumExtents ? kHugeBlocks : 0) {}

ExtentArena::~ExtentArena() {
  GUESTIO_CHECK(blocks_in_use() == 0, "chains to be cleared before their queue ends");
}

ExtentArena::Block ExtentArena::acquire(std::size_t extents) noexcept {
  if (extents <= medium_.block_extents) return medium_.acquire();
  GUESTIO_CHECK(extents <= huge_.block_extents, "a chain within the limit");
  return huge_.acquire();
}

void ExtentArena::release(Block block) noexcept {
  GUESTIO_CHECK(!block.empty(), "a block from acquire()");
  (block.size() == medium_.block_extents ? medium_ : huge_).release(block);
}

ExtentArena::Pool::Pool(std::size_t block_extents, std::size_t max_blocks)
    : block_extents(block_extents), max_blocks(max_blocks) {
  // So that acquire() and release() allocate no bookkeeping.
  owned.reserve(max_blocks);
  free.reserve(max_blocks);
}

ExtentArena::Block ExtentArena::Pool::acquire() noexcept {
  if (free.empty()) {
    if (owned.size() == max_blocks) return {};
    Storage made(new (std::nothrow) mem::AddressRange[block_extents]);
    if (made == nullptr) return {};
    free.push_back(made.get());
    owned.push_back(std::move(made));
  }
  mem::AddressRange* const block = free.back();
  free.pop_back();
  ++in_use;
  return {block, block_extents};
}

void ExtentArena::Pool::release(Block block) noexcept {
  free.push_back(block.data());
  --in_use;
}

}  // namespace guestio::virtio
