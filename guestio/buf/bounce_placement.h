// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "guestio/base/align.h"
#include "guestio/base/check.h"
#include "guestio/buf/bounce_cache.h"
#include "guestio/buf/io_buffer.h"

/// The layout of a buffer in pages. For the sources bounce_*.cc only.
namespace guestio::buf::internal {

/// The pages of `size` bytes; no overflow for any size.
[[nodiscard]] constexpr std::size_t pages_for(std::size_t size) noexcept {
  return size / kPageSize + (size % kPageSize != 0);
}

/// A buffer and its block.
struct PlacedBuffer {
  IoBuffer segment;
  BounceBlock block;
};

/// The address of empty buffers, in a page of its own.
alignas(kPageSize) inline std::byte no_bytes[1];

/// Requires: a power of two. Errors: as BouncePool::allocate().
[[nodiscard]] inline Result<PlacedBuffer> place_buffer(BounceCache& cache, std::size_t size,
                                                       std::size_t alignment) {
  std::size_t pages = pages_for(size);
  if (alignment > kPageSize) [[unlikely]] {
    GUESTIO_CHECK(std::has_single_bit(alignment), "an alignment that is a power of two");
    // That many pages contain an aligned start with enough pages after it.
    pages = std::max<std::size_t>(pages, 1) + (alignment / kPageSize - 1);
  } else if (pages == 0) {
    return PlacedBuffer{{no_bytes, 0}, {}};
  }
  const auto block = cache.allocate(pages);
  if (!block) [[unlikely]]
    return fail(block.error());
  std::byte* start = block->data;
  if (alignment > kPageSize) [[unlikely]] {
    const auto address = reinterpret_cast<std::uintptr_t>(start);
    start += align_up(address, alignment) - address;
  }
  return PlacedBuffer{{start, size}, *block};
}

}  // namespace guestio::buf::internal
