// SPDX-License-Identifier: MIT
#include "guestio/task/frame_pool.h"

#include <array>
#include <new>

namespace guestio::task {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kKeepBlocks = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
constexpr bool kKeepBlocks = false;
#else
constexpr bool kKeepBlocks = true;
#endif
#else
constexpr bool kKeepBlocks = true;
#endif

struct FreeBlock {
  FreeBlock* next;
};

constexpr std::size_t kClasses = FramePool::kMaxFrameBytes / FramePool::kGranule;

// Trivially destructible, hence usable after the thread's destructors have run: a frame freed that
// late goes straight to the heap.
struct FreeLists {
  std::array<FreeBlock*, kClasses> heads;
  std::size_t kept;
  enum class State : unsigned char { kUnused, kOpen, kClosed } state;
};
constinit thread_local FreeLists free_lists{};

struct ReleaseAtThreadExit {
  // A constructor that is not constexpr makes the first use register the destructor.
  ReleaseAtThreadExit() noexcept { free_lists.state = FreeLists::State::kOpen; }
  ReleaseAtThreadExit(const ReleaseAtThreadExit&) = delete;
  ReleaseAtThreadExit& operator=(const ReleaseAtThreadExit&) = delete;
  ~ReleaseAtThreadExit() {
    free_lists.state = FreeLists::State::kClosed;
    for (FreeBlock*& head : free_lists.heads) {
      while (head != nullptr) {
        FreeBlock* const block = head;
        head = block->next;
        ::operator delete(block);
      }
    }
    free_lists.kept = 0;
  }
};

// Whether this thread may keep a block. The first call registers the release at thread exit.
bool may_keep(std::size_t rounded) noexcept {
  if (free_lists.state == FreeLists::State::kUnused) [[unlikely]] {
    static thread_local ReleaseAtThreadExit release_at_thread_exit;
  }
  return free_lists.state == FreeLists::State::kOpen &&
         free_lists.kept + rounded <= FramePool::kMaxKeptBytes;
}

constexpr std::size_t class_of(std::size_t size) noexcept {
  return size == 0 ? 0 : (size - 1) / FramePool::kGranule;
}
constexpr std::size_t size_of_class(std::size_t index) noexcept {
  return (index + 1) * FramePool::kGranule;
}

}  // namespace

void* FramePool::allocate(std::size_t size) noexcept {
  if (!kKeepBlocks || size > kMaxFrameBytes) return ::operator new(size);
  const std::size_t index = class_of(size);
  FreeBlock* const block = free_lists.heads[index];
  if (block == nullptr) [[unlikely]]
    return ::operator new(size_of_class(index));
  free_lists.heads[index] = block->next;
  free_lists.kept -= size_of_class(index);
  return block;
}

void FramePool::release(void* block, std::size_t size) noexcept {
  if (kKeepBlocks && size <= kMaxFrameBytes) {
    const std::size_t index = class_of(size);
    if (may_keep(size_of_class(index))) {
      free_lists.heads[index] = new (block) FreeBlock{free_lists.heads[index]};
      free_lists.kept += size_of_class(index);
      return;
    }
  }
  ::operator delete(block);
}

std::size_t FramePool::kept_bytes() noexcept { return free_lists.kept; }
bool FramePool::keeps_blocks() noexcept { return kKeepBlocks; }

}  // namespace guestio::task
