// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_pool.h"

namespace guestio::buf {

/// One thread's cache of bounce blocks in front of a pool: LIFO lists by size, so that the next
/// block is still in the processor's cache.
///
/// Sizes up to a slab are rounded up to one of 56 classes, by at most an eighth. Larger blocks go
/// to the pool each time. The links lie in the free blocks.
///
/// Threads: one. Lifetime: the pool outlives it.
class BounceCache {
 public:
  /// Keeps at most `max_kept` bytes of free blocks; above that it returns all of them to the pool.
  BounceCache(BouncePool& pool, ByteCount max_kept) noexcept
      : pool_(pool), max_kept_pages_(max_kept.raw() / kPageSize) {}
  BounceCache(const BounceCache&) = delete;
  BounceCache& operator=(const BounceCache&) = delete;
  ~BounceCache() { flush(); }

  /// A block of at least `pages`. Requires: pages > 0. Errors: as BouncePool::allocate().
  [[nodiscard]] Result<BounceBlock> allocate(std::size_t pages) {
    if (pages <= kMaxCached) [[likely]] {
      const std::size_t index = class_of(pages);
      FreeBlock* const block = free_[index];
      if (block != nullptr) [[likely]] {
        free_[index] = block->next;
        kept_pages_ -= pages_of(index);
        return BounceBlock{reinterpret_cast<std::byte*>(block), pages_of(index)};
      }
      pages = pages_of(index);
    }
    return pool_.allocate(pages);
  }
  /// Requires: the block came from allocate(), of this cache or another one of the same pool.
  void release(BounceBlock block) noexcept {
    if (block.pages > kMaxCached || kept_pages_ + block.pages > max_kept_pages_) [[unlikely]]
      return release_slow_path(block);
    keep(block);
  }
  /// Returns all blocks to the pool.
  void flush() noexcept;
  /// As BouncePool::keep_slab().
  [[nodiscard]] std::span<std::byte> keep_slab(const std::byte* address) noexcept {
    return pool_.keep_slab(address);
  }

  /// The size classes.
  static constexpr std::size_t kMaxCached = BouncePool::kSlabBytes / kPageSize;
  static constexpr std::size_t class_of(std::size_t pages) noexcept {
    const std::size_t last = pages - 1;
    if (last < kExact) return last;
    const auto shift = static_cast<std::size_t>(std::bit_width(last)) - 4;
    return kExact + (shift - 1) * kSteps + (last >> shift) - kSteps;
  }
  static constexpr std::size_t pages_of(std::size_t index) noexcept {
    if (index < kExact) return index + 1;
    const std::size_t step = index - kExact;
    return (step % kSteps + kSteps + 1) << (step / kSteps + 1);
  }

 private:
  struct FreeBlock {
    FreeBlock* next;
  };
  static constexpr std::size_t kSteps = 8;  // classes between two powers of two
  static constexpr std::size_t kExact = 2 * kSteps;
  static constexpr std::size_t kClasses = 56;

  void keep(BounceBlock block) noexcept {
    FreeBlock*& head = free_[class_of(block.pages)];
    head = new (block.data) FreeBlock{head};
    kept_pages_ += block.pages;
  }
  void release_slow_path(BounceBlock block) noexcept;

  BouncePool& pool_;
  const std::size_t max_kept_pages_;
  std::size_t kept_pages_ = 0;
  std::array<FreeBlock*, kClasses> free_{};
};

static_assert(BounceCache::class_of(BounceCache::kMaxCached) == 55);
static_assert(BounceCache::pages_of(55) == BounceCache::kMaxCached);

}  // namespace guestio::buf
