// SPDX-License-Identifier: MIT
#include "guestio/buf/list_pool.h"

#include <array>
#include <bit>
#include <new>

#include "guestio/task/frame_pool.h"

namespace guestio::buf {
namespace {

using task::FramePool;

struct FreeBlock {
  FreeBlock* next;
};

constexpr std::size_t kClasses =
    std::bit_width(ListPool::kMaxKeptBlock) - std::bit_width(FramePool::kMaxFrameBytes);

constexpr std::size_t class_of(std::size_t size) noexcept {
  return static_cast<std::size_t>(std::bit_width(size - 1) -
                                  std::bit_width(FramePool::kMaxFrameBytes));
}
constexpr std::size_t size_of_class(std::size_t index) noexcept {
  return 2 * FramePool::kMaxFrameBytes << index;
}
static_assert(class_of(FramePool::kMaxFrameBytes + 1) == 0);
static_assert(class_of(ListPool::kMaxKeptBlock) == kClasses - 1);
static_assert(size_of_class(kClasses - 1) == ListPool::kMaxKeptBlock);

/// One thread's free blocks. Trivially destructible, hence usable after the thread's destructors
/// have run: a block released that late goes to the heap.
struct FreeLists {
  std::array<FreeBlock*, kClasses> heads;
  std::size_t kept;
  bool is_closed;
};
constinit thread_local FreeLists free_lists{};

struct ReleaseAtThreadExit {
  // Not constexpr: the first use registers the destructor.
  ReleaseAtThreadExit() noexcept { free_lists.is_closed = false; }
  ReleaseAtThreadExit(const ReleaseAtThreadExit&) = delete;
  ReleaseAtThreadExit& operator=(const ReleaseAtThreadExit&) = delete;
  ~ReleaseAtThreadExit() {
    free_lists.is_closed = true;
    for (FreeBlock*& head : free_lists.heads) {
      while (head != nullptr) {
        FreeBlock* const block = head;
        head = block->next;
        ::operator delete(block);
      }
    }
  }
};

bool is_in_frame_pool(std::size_t size) noexcept { return size <= FramePool::kMaxFrameBytes; }

bool is_kept(std::size_t size) noexcept {
  return size <= ListPool::kMaxKeptBlock && FramePool::keeps_blocks();
}

}  // namespace

void* ListPool::allocate(std::size_t size) noexcept {
  if (is_in_frame_pool(size)) return FramePool::allocate(size);
  if (!is_kept(size)) return ::operator new(size);
  const std::size_t index = class_of(size);
  FreeBlock* const block = free_lists.heads[index];
  if (block == nullptr) return ::operator new(size_of_class(index));
  free_lists.heads[index] = block->next;
  free_lists.kept -= size_of_class(index);
  return block;
}

void ListPool::release(void* block, std::size_t size) noexcept {
  if (is_in_frame_pool(size)) return FramePool::release(block, size);
  if (is_kept(size) && !free_lists.is_closed) {
    static thread_local const ReleaseAtThreadExit release_at_thread_exit;
    const std::size_t index = class_of(size);
    if (free_lists.kept + size_of_class(index) <= kMaxKeptBytes) {
      free_lists.heads[index] = new (block) FreeBlock{free_lists.heads[index]};
      free_lists.kept += size_of_class(index);
      return;
    }
  }
  ::operator delete(block);
}

}  // namespace guestio::buf
