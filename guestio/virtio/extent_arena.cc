// SPDX-License-Identifier: MIT
#include "guestio/virtio/extent_arena.h"

#include <new>

#include "guestio/base/check.h"

namespace guestio::virtio {

ExtentArena::ExtentArena(std::size_t longest)
    : medium_(kMediumExtents, kMediumBlocks),
      huge_(longest, longest > kMediumExtents ? kHugeBlocks : 0) {}

ExtentArena::~ExtentArena() {
  GUESTIO_CHECK(blocks_out() == 0, "every chain to be gone before its queue");
}

ExtentArena::Block ExtentArena::acquire(std::size_t extents) noexcept {
  if (extents <= medium_.block_extents) return medium_.acquire();
  GUESTIO_CHECK(extents <= huge_.block_extents, "a chain within the limit");
  return huge_.acquire();
}

void ExtentArena::release(Block block) noexcept {
  GUESTIO_CHECK(!block.empty(), "a block to give back");
  (block.size() == medium_.block_extents ? medium_ : huge_).release(block);
}

ExtentArena::Shelf::Shelf(std::size_t block_extents, std::size_t most)
    : block_extents(block_extents), most(most) {
  // So that taking and giving back never allocates bookkeeping.
  owned.reserve(most);
  free.reserve(most);
}

ExtentArena::Block ExtentArena::Shelf::acquire() noexcept {
  if (free.empty()) {
    if (owned.size() == most) return {};
    Storage made(new (std::nothrow) mem::AddressRange[block_extents]);
    if (made == nullptr) return {};
    free.push_back(made.get());
    owned.push_back(std::move(made));
  }
  mem::AddressRange* const block = free.back();
  free.pop_back();
  ++out;
  return {block, block_extents};
}

void ExtentArena::Shelf::release(Block block) noexcept {
  free.push_back(block.data());
  --out;
}

}  // namespace guestio::virtio
