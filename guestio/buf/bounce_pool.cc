// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/check.h"

namespace guestio::buf {

namespace {

constexpr std::size_t kBitsPerWord = 64;
constexpr std::size_t kSlabPages = BouncePool::kSlabBytes / kPageSize;

}  // namespace

std::optional<std::size_t> BouncePool::Slab::find(std::size_t count) const noexcept {
  if (count > free_pages || (count > kSlabPages) != (pages > kSlabPages)) return std::nullopt;
  std::size_t first = 0;
  std::size_t run = 0;
  for (std::size_t word = 0; word < free_map.size(); ++word) {
    for (std::size_t at = 0; at < kBitsPerWord;) {
      const std::uint64_t bits = free_map[word] >> at;
      if ((bits & 1) == 0) {
        run = 0;
        at += static_cast<std::size_t>(std::countr_zero(bits));
        continue;
      }
      if (run == 0) first = word * kBitsPerWord + at;
      const auto ones = static_cast<std::size_t>(std::countr_one(bits));
      run += ones;
      at += ones;
      if (run >= count) return first;
    }
  }
  return std::nullopt;
}

void BouncePool::Slab::mark(std::size_t first, std::size_t count, bool free) noexcept {
  while (count != 0) {
    const std::size_t at = first % kBitsPerWord;
    const std::size_t here = std::min(count, kBitsPerWord - at);
    const std::uint64_t mask = (~std::uint64_t{0} >> (kBitsPerWord - here)) << at;
    std::uint64_t& word = free_map[first / kBitsPerWord];
    GUESTIO_CHECK((word & mask) == (free ? 0 : mask), "bounce pages allocated and released once");
    word ^= mask;
    first += here;
    count -= here;
  }
}

BounceBlock BouncePool::Slab::take(std::size_t first, std::size_t count) noexcept {
  mark(first, count, false);
  free_pages -= count;
  return {memory.data() + first * kPageSize, count};
}

BouncePool::~BouncePool() {
  GUESTIO_CHECK(idle_ == mapped_, "all blocks released before the end of their bounce pool");
}

BouncePool& BouncePool::shared() noexcept {
  // Never destroyed: buffers may be released during exit.
  static auto* const pool = new BouncePool(ByteCount(std::uint64_t{16} << 20));
  return *pool;
}

Result<BouncePool::Slabs::iterator> BouncePool::add_slab(std::size_t bytes) {
  auto memory = Mapping::reserve(bytes, kSlabBytes);
  if (!memory) return fail(memory.error());
  if (::mprotect(memory->data(), bytes, PROT_READ | PROT_WRITE) != 0) {
    return fail_host("memory for bounce buffers");
  }
  // Advice only: works without huge pages.
  if (page_kind_ == PageKind::kHuge) (void)::madvise(memory->data(), bytes, MADV_HUGEPAGE);
  const std::size_t pages = bytes / kPageSize;
  Slab slab{std::move(*memory), pages, pages, false,
            std::vector<std::uint64_t>(pages / kBitsPerWord, ~std::uint64_t{0})};
  const auto place = std::ranges::upper_bound(
      slabs_, slab.memory.data(), {}, [](const Slab& other) { return other.memory.data(); });
  mapped_ += bytes;
  idle_ += bytes;
  return slabs_.insert(place, std::move(slab));
}

BouncePool::Slabs::iterator BouncePool::slab_of(const std::byte* address) noexcept {
  const auto past = std::ranges::upper_bound(
      slabs_, address, {}, [](const Slab& slab) -> const std::byte* { return slab.memory.data(); });
  GUESTIO_CHECK(past != slabs_.begin(), "a block of this bounce pool");
  return past - 1;
}

void BouncePool::drop_if_idle(Slabs::iterator slab) noexcept {
  if (!slab->is_idle()) return;
  idle_ += slab->memory.size();
  if (idle_ <= max_idle_ || slab->is_kept) return;
  idle_ -= slab->memory.size();
  mapped_ -= slab->memory.size();
  slabs_.erase(slab);
}

Result<> BouncePool::reserve(ByteCount bytes) {
  const std::lock_guard lock(mutex_);
  max_idle_ = std::max(max_idle_, align_up(bytes.raw(), kSlabBytes));
  while (mapped_ < bytes.raw()) {
    if (const auto added = add_slab(kSlabBytes); !added) return fail(added.error());
  }
  return {};
}

Result<BounceBlock> BouncePool::allocate(std::size_t pages) {
  GUESTIO_CHECK(pages != 0, "a block of at least a page");
  if (pages > kMaxPages) return fail(ErrorKind::kTooLarge, "bounce memory", pages, kMaxPages);
  const std::lock_guard lock(mutex_);
  auto slab = slabs_.begin();
  std::optional<std::size_t> first;
  for (; slab != slabs_.end(); ++slab) {
    first = slab->find(pages);
    if (first) break;
  }
  if (!first) {
    const auto added = add_slab(align_up(pages * kPageSize, kSlabBytes));
    if (!added) return fail(added.error());
    slab = *added;
    first = 0;
  }
  if (slab->is_idle()) idle_ -= slab->memory.size();
  return slab->take(*first, pages);
}

void BouncePool::release(BounceBlock block) noexcept {
  const std::lock_guard lock(mutex_);
  const auto slab = slab_of(block.data);
  const auto first = static_cast<std::size_t>(block.data - slab->memory.data()) / kPageSize;
  GUESTIO_CHECK(fits_within(first, block.pages, slab->pages), "a block of this bounce pool");
  slab->mark(first, block.pages, true);
  slab->free_pages += block.pages;
  drop_if_idle(slab);
}

std::span<std::byte> BouncePool::keep_slab(const std::byte* address) noexcept {
  const std::lock_guard lock(mutex_);
  const auto slab = slab_of(address);
  GUESTIO_CHECK(!slab->is_idle(), "a slab with an allocated block");
  slab->is_kept = true;
  return slab->memory.bytes();
}

std::size_t BouncePool::mapped_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return mapped_;
}

}  // namespace guestio::buf
