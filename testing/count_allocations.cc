// SPDX-License-Identifier: MIT
#include "testing/count_allocations.h"

#include <cstdlib>
#include <new>

namespace guestio::testing {
namespace {
thread_local std::uint64_t count = 0;
}  // namespace

std::uint64_t allocations() noexcept { return count; }

}  // namespace guestio::testing

// Not inlined: g++ would pair malloc() with operator delete and warn of a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++guestio::testing::count;
  void* const block = std::malloc(size);
  if (block == nullptr) std::abort();
  return block;
}
// NOLINTBEGIN(clang-analyzer-cplusplus.NewDelete): the analyser sees a double delete.
[[gnu::noinline]] void operator delete(void* block) noexcept { std::free(block); }
[[gnu::noinline]] void operator delete(void* block, std::size_t) noexcept { std::free(block); }
// NOLINTEND(clang-analyzer-cplusplus.NewDelete)
