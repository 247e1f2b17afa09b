// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_buffer.h"

#include "guestio/buf/bounce_cache.h"
#include "guestio/buf/bounce_placement.h"

namespace guestio::buf {

namespace {

constexpr ByteCount kMaxKeptByThread(std::uint64_t{4} << 20);

/// The calling thread's cache. Trivially destructible, hence usable after the thread's destructors
/// have run: later buffers go straight to the pool.
struct ThreadCache {
  BounceCache* cache;
  bool is_gone;
};
constinit thread_local ThreadCache thread_cache{};

struct ThreadCacheOwner {
  BounceCache cache{BouncePool::shared(), kMaxKeptByThread};
  ThreadCacheOwner() noexcept { thread_cache.cache = &cache; }
  ThreadCacheOwner(const ThreadCacheOwner&) = delete;
  ThreadCacheOwner& operator=(const ThreadCacheOwner&) = delete;
  ~ThreadCacheOwner() { thread_cache = {nullptr, true}; }
};

[[gnu::noinline]] void make_thread_cache() { static thread_local ThreadCacheOwner owner; }

/// nullptr at thread exit, after the cache is gone.
BounceCache* find_thread_cache() {
  if (thread_cache.cache == nullptr && !thread_cache.is_gone) [[unlikely]]
    make_thread_cache();
  return thread_cache.cache;
}

Result<internal::PlacedBuffer> place_without_cache(std::size_t size, std::size_t alignment) {
  BounceCache keeps_nothing(BouncePool::shared(), ByteCount(0));
  return internal::place_buffer(keeps_nothing, size, alignment);
}

}  // namespace

Result<BounceBuffer> BounceBuffer::allocate(std::size_t size, std::size_t alignment) {
  BounceCache* const cache = find_thread_cache();
  const auto placed = cache != nullptr ? internal::place_buffer(*cache, size, alignment)
                                       : place_without_cache(size, alignment);
  if (!placed) [[unlikely]]
    return fail(placed.error());
  return BounceBuffer(placed->segment, placed->block);
}

void BounceBuffer::release() noexcept {
  BounceCache* const cache = find_thread_cache();
  if (cache != nullptr) [[likely]]
    return cache->release(block_);
  BouncePool::shared().release(block_);
}

}  // namespace guestio::buf
