// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_cache.h"

namespace guestio::buf {

void BounceCache::flush() noexcept {
  for (std::size_t index = 0; index < kClasses; ++index) {
    while (FreeBlock* const block = free_[index]) {
      free_[index] = block->next;
      pool_.release({reinterpret_cast<std::byte*>(block), pages_of(index)});
    }
  }
  kept_pages_ = 0;
}

void BounceCache::release_slow_path(BounceBlock block) noexcept {
  if (block.pages > kMaxCached || block.pages > max_kept_pages_) return pool_.release(block);
  // The cached blocks are of sizes no longer in use; otherwise this one would fit.
  flush();
  keep(block);
}

}  // namespace guestio::buf
