// SPDX-License-Identifier: MIT
#pragma once

#include <boost/container/small_vector.hpp>

#include "guestio/buf/list_pool.h"

namespace guestio::buf {

/// An allocator over the thread's list pool: a warm thread makes no heap allocations.
template <typename T>
struct ListPoolAllocator {
  using value_type = T;

  ListPoolAllocator() noexcept = default;
  template <typename U>
  explicit ListPoolAllocator(const ListPoolAllocator<U>&) noexcept {}

  [[nodiscard]] T* allocate(std::size_t count) {
    return static_cast<T*>(ListPool::allocate(count * sizeof(T)));
  }
  void deallocate(T* memory, std::size_t count) noexcept {
    ListPool::release(memory, count * sizeof(T));
  }
  friend bool operator==(const ListPoolAllocator&, const ListPoolAllocator&) noexcept {
    return true;
  }
};

/// A list on the request path with `Inline` inline items, and more in the list pool.
template <typename T, std::size_t Inline>
using PoolVector = boost::container::small_vector<T, Inline, ListPoolAllocator<T>>;

}  // namespace guestio::buf
