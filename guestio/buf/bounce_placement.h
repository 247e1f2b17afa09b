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

/// How a buffer of some size and alignment is laid into pages. For the sources of bounce_*.cc.
namespace guestio::buf::internal {

/// Pages that the bytes take; no overflow for any size.
[[nodiscard]] constexpr std::size_t pages_for(std::size_t size) noexcept {
  return size / kPageSize + (size % kPageSize != 0);
}

/// A buffer and the block that it lies in.
struct PlacedBuffer {
  IoBuffer segment;
  BounceBlock block;
};

/// Where the address of a buffer without bytes points: to a page that is nobody's.
alignas(kPageSize) inline std::byte no_bytes[1];

/// Requires: a power of two. Errors: as BouncePool::allocate().
[[nodiscard]] inline Result<PlacedBuffer> place_buffer(BounceCache& cache, std::size_t size,
                                                       std::size_t alignment) {
  std::size_t pages = pages_for(size);
  if (alignment > kPageSize) [[unlikely]] {
    GUESTIO_CHECK(std::has_single_bit(alignment), "an alignment that is a power of two");
    // Somewhere in so many pages there is an aligned one with enough behind it.
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
