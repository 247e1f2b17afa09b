// SPDX-License-Identifier: MIT
// Stands in front of the C library's allocator.
#include "allocations.h"

#include <atomic>
#include <cstddef>

// The C library's own, under the names that it keeps for this purpose.
extern "C" {
void* __libc_malloc(std::size_t size);                       // NOLINT
void* __libc_calloc(std::size_t count, std::size_t size);    // NOLINT
void* __libc_realloc(void* block, std::size_t size);         // NOLINT
void* __libc_memalign(std::size_t align, std::size_t size);  // NOLINT
}

namespace guestio::bench {
namespace {

std::atomic<std::uint64_t> count = 0;  // relaxed: read by whoever made or joined the threads

void note() noexcept { count.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

std::uint64_t allocations() noexcept { return count.load(std::memory_order_relaxed); }

}  // namespace guestio::bench

// free() stays the C library's: it takes what its own functions gave.
extern "C" {

void* malloc(std::size_t size) noexcept {
  guestio::bench::note();
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  guestio::bench::note();
  return __libc_calloc(count, size);
}
void* realloc(void* block, std::size_t size) noexcept {
  guestio::bench::note();
  return __libc_realloc(block, size);
}
void* memalign(std::size_t align, std::size_t size) noexcept {
  guestio::bench::note();
  return __libc_memalign(align, size);
}
void* aligned_alloc(std::size_t align, std::size_t size) noexcept { return memalign(align, size); }
}
