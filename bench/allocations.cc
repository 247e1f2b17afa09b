// SPDX-License-Identifier: MIT
// Interposes the allocator of the C library.
#include "allocations.h"

#include <atomic>
#include <cstddef>

// The functions of the C library, under their names for interposition.
extern "C" {
void* __libc_malloc(std::size_t size);                       // NOLINT
void* __libc_calloc(std::size_t count, std::size_t size);    // NOLINT
void* __libc_realloc(void* block, std::size_t size);         // NOLINT
void* __libc_memalign(std::size_t align, std::size_t size);  // NOLINT
}

namespace guestio::bench {
namespace {

std::atomic<std::uint64_t> count =
    0;  // relaxed: read by the thread that starts and joins the others

void count_allocation() noexcept { count.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

std::uint64_t allocations() noexcept { return count.load(std::memory_order_relaxed); }

}  // namespace guestio::bench

// free() is not interposed: all blocks come from the C library.
extern "C" {

void* malloc(std::size_t size) noexcept {
  guestio::bench::count_allocation();
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  guestio::bench::count_allocation();
  return __libc_calloc(count, size);
}
void* realloc(void* block, std::size_t size) noexcept {
  guestio::bench::count_allocation();
  return __libc_realloc(block, size);
}
void* memalign(std::size_t align, std::size_t size) noexcept {
  guestio::bench::count_allocation();
  return __libc_memalign(align, size);
}
void* aligned_alloc(std::size_t align, std::size_t size) noexcept { return memalign(align, size); }
}
