// SPDX-License-Identifier: MIT
#pragma once

#include <boost/container/small_vector.hpp>

#include "guestio/task/frame_pool.h"

namespace guestio::buf {

/// An allocator over the thread's frame pool: after warm-up it takes nothing from the heap.
template <typename T>
struct FramePoolAllocator {
  using value_type = T;

  FramePoolAllocator() noexcept = default;
  template <typename U>
  explicit FramePoolAllocator(const FramePoolAllocator<U>&) noexcept {}

  [[nodiscard]] T* allocate(std::size_t count) {
    return static_cast<T*>(task::FramePool::allocate(count * sizeof(T)));
  }
  void deallocate(T* memory, std::size_t count) noexcept {
    task::FramePool::release(memory, count * sizeof(T));
  }
  friend bool operator==(const FramePoolAllocator&, const FramePoolAllocator&) noexcept {
    return true;
  }
};

/// A list on the request path: the first `Inline` items live in it, more come from the frame pool.
template <typename T, std::size_t Inline>
using PoolVector = boost::container::small_vector<T, Inline, FramePoolAllocator<T>>;

}  // namespace guestio::buf
