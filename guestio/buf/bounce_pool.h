// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"

/// The memory of bounce buffers.
namespace guestio::buf {

/// Adjacent allocated pages.
struct BounceBlock {
  std::byte* data = nullptr;  ///< page-aligned
  std::size_t pages = 0;
};

/// Bounce memory in slabs, mapped once and recycled. Nothing is zeroed: a block keeps its old
/// bytes.
///
///   slab, 2 MiB   |aaaa|..|bbbbbbbb|.....|c|............|      a bit a page, first fit
///
/// A block larger than a slab has a mapping of its own. Caches (bounce_cache.h) serve most
/// requests, so this need not be fast.
///
/// Threads: any. Lifetime: outlives its blocks (checked).
class BouncePool {
 public:
  /// Alignment and unit of slabs: a huge page, and one registered buffer of an io_uring.
  static constexpr std::size_t kSlabBytes = std::size_t{2} << 20;
  static constexpr std::size_t kMaxPages = std::size_t{1} << 28;

  enum class PageKind : std::uint8_t {
    kSmall,
    kHuge,  ///< advises huge pages, and works without them
  };

  /// Keeps idle slabs up to `max_idle` bytes or the reserved bytes, whichever is more, and those of
  /// keep_slab(). Unmaps the rest.
  explicit BouncePool(ByteCount max_idle, PageKind page_kind = PageKind::kHuge) noexcept
      : page_kind_(page_kind), max_idle_(max_idle.raw()) {}
  BouncePool(const BouncePool&) = delete;
  BouncePool& operator=(const BouncePool&) = delete;
  ~BouncePool();

  /// The pool of buffers without a budget. Never destroyed.
  static BouncePool& shared() noexcept;

  /// Maps slabs for `bytes` in all, ahead of requests. Errors: host.
  [[nodiscard]] Result<> reserve(ByteCount bytes);
  /// Requires: pages > 0. Errors: too large, host (no memory).
  [[nodiscard]] Result<BounceBlock> allocate(std::size_t pages);
  /// Requires: the block came from here.
  void release(BounceBlock block) noexcept;
  /// The slab around `address`. It stays mapped for the life of the pool from now on, so that the
  /// kernel can register it. Requires: `address` lies in an allocated block.
  [[nodiscard]] std::span<std::byte> keep_slab(const std::byte* address) noexcept;

  [[nodiscard]] std::size_t mapped_bytes() const noexcept;

 private:
  struct Slab {
    Mapping memory;
    std::size_t pages;
    std::size_t free_pages;
    bool is_kept;                         // for the pool's life
    std::vector<std::uint64_t> free_map;  // a bit a page, set when free

    [[nodiscard]] bool is_idle() const noexcept { return free_pages == pages; }
    /// The first page of a hole of `count` pages. Large and small blocks do not share slabs: a
    /// small one would keep the memory of a released large one.
    [[nodiscard]] std::optional<std::size_t> find(std::size_t count) const noexcept;
    void mark(std::size_t first, std::size_t count, bool free) noexcept;
    [[nodiscard]] BounceBlock take(std::size_t first, std::size_t count) noexcept;
  };
  using Slabs = std::vector<Slab>;

  // Under the lock.
  [[nodiscard]] Result<Slabs::iterator> add_slab(std::size_t bytes);
  [[nodiscard]] Slabs::iterator slab_of(const std::byte* address) noexcept;
  void drop_if_idle(Slabs::iterator slab) noexcept;

  const PageKind page_kind_;
  mutable std::mutex mutex_;
  // protected by mutex_
  std::size_t max_idle_;
  Slabs slabs_;  // by address
  std::size_t mapped_ = 0;
  std::size_t idle_ = 0;  // bytes of unused slabs
};

}  // namespace guestio::buf
