// SPDX-License-Identifier: MIT
#include "guestio/task/frame_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

namespace guestio::task {
namespace {

#define SKIP_WHEN_BYPASSED() \
  if (!FramePool::keeps_blocks()) GTEST_SKIP() << "the pool is bypassed under this sanitizer"

TEST(FramePool, ReusesABlockForTheSameSizeClass) {
  SKIP_WHEN_BYPASSED();
  void* const block = FramePool::allocate(300);
  FramePool::release(block, 300);
  void* const again = FramePool::allocate(257);
  EXPECT_EQ(again, block);
  FramePool::release(again, 257);
}

TEST(FramePool, BlocksAreUsableToTheirLastByte) {
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{127}, std::size_t{128}, std::size_t{129},
        FramePool::kMaxFrameBytes - 1, FramePool::kMaxFrameBytes, FramePool::kMaxFrameBytes + 1}) {
    void* const block = FramePool::allocate(size);
    ASSERT_NE(block, nullptr);
    std::memset(block, 0xa5, size);
    FramePool::release(block, size);
  }
}

TEST(FramePool, KeepsNothingAboveTheLargestClass) {
  const std::size_t before = FramePool::kept_bytes();
  void* const block = FramePool::allocate(FramePool::kMaxFrameBytes + 1);
  FramePool::release(block, FramePool::kMaxFrameBytes + 1);
  EXPECT_EQ(FramePool::kept_bytes(), before);
}

TEST(FramePool, KeepsABoundedAmount) {
  constexpr std::size_t kBlocks = 2 * FramePool::kMaxKeptBytes / FramePool::kMaxFrameBytes;
  std::vector<void*> blocks;
  blocks.reserve(kBlocks);
  for (std::size_t i = 0; i < kBlocks; ++i) {
    blocks.push_back(FramePool::allocate(FramePool::kMaxFrameBytes));
  }
  for (void* const block : blocks) FramePool::release(block, FramePool::kMaxFrameBytes);
  EXPECT_LE(FramePool::kept_bytes(), FramePool::kMaxKeptBytes);
}

TEST(FramePool, ABlockMayBeFreedOnAnotherThread) {
  void* const block = FramePool::allocate(512);
  const std::size_t before = FramePool::kept_bytes();
  std::size_t kept_there = 0;
  std::thread([&] {
    FramePool::release(block, 512);
    kept_there = FramePool::kept_bytes();
  }).join();
  EXPECT_EQ(kept_there, FramePool::keeps_blocks() ? 512U : 0U);
  EXPECT_EQ(FramePool::kept_bytes(), before);
}

// Destroyed after the pool's thread-exit work, because it was constructed earlier.
struct LateRelease {
  void* block = nullptr;
  std::size_t* kept_bytes = nullptr;
  ~LateRelease() {
    if (block == nullptr) return;
    FramePool::release(block, 256);
    *kept_bytes = FramePool::kept_bytes();
  }
};

TEST(FramePool, ABlockMayBeFreedAfterTheThreadsListsAreGone) {
  std::size_t kept_bytes = 1;
  std::thread([&] {
    static thread_local LateRelease late;
    late.block = FramePool::allocate(256);
    late.kept_bytes = &kept_bytes;
    FramePool::release(FramePool::allocate(256), 256);
  }).join();
  EXPECT_EQ(kept_bytes, 0U) << "no destructor would free it";
}

}  // namespace
}  // namespace guestio::task
