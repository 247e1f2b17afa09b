// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_buffer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "guestio/buf/bounce_pool.h"

namespace guestio::buf {
namespace {

std::uintptr_t address(const BounceBuffer& buffer) {
  return reinterpret_cast<std::uintptr_t>(buffer.bytes().data());
}

TEST(BounceBuffer, IsPageAlignedAndOneSegmentOfAnySize) {
  for (const std::size_t size : {1u, 511u, 4096u, 4097u, 65536u, 131072u, 1u << 20, 5u << 20}) {
    const auto buffer = BounceBuffer::allocate(size);
    ASSERT_TRUE(buffer);
    EXPECT_EQ(buffer->size(), size);
    EXPECT_EQ(buffer->bytes().size(), size);
    EXPECT_EQ(address(*buffer) % kPageSize, 0u);
    ASSERT_EQ(buffer->segments().size(), 1u);
    EXPECT_EQ(buffer->segments()[0], (IoBuffer{buffer->bytes().data(), size}));
    std::memset(buffer->bytes().data(), 1, size);
  }
}

TEST(BounceBuffer, OfSizeZeroIsOneSegment) {
  for (const std::size_t alignment : {std::size_t{1}, kPageSize, std::size_t{1} << 20}) {
    const auto buffer = BounceBuffer::allocate(0, alignment);
    ASSERT_TRUE(buffer);
    ASSERT_EQ(buffer->segments().size(), 1u);
    EXPECT_TRUE(buffer->segments()[0].is_empty());
    EXPECT_NE(buffer->segments()[0].data, nullptr);
    EXPECT_EQ(address(*buffer) % std::max(alignment, kPageSize), 0u);
  }
}

TEST(BounceBuffer, Fault04HasTheAlignmentOfTheRequest) {
  for (std::size_t alignment = 1; alignment <= std::size_t{8} << 20; alignment *= 2) {
    for (const std::size_t size : {1u, 4096u, 4097u, 100000u}) {
      const auto buffer = BounceBuffer::allocate(size, alignment);
      const auto other = BounceBuffer::allocate(size, alignment);
      ASSERT_TRUE(buffer && other);
      EXPECT_EQ(address(*buffer) % std::max(alignment, kPageSize), 0u);
      EXPECT_EQ(address(*other) % std::max(alignment, kPageSize), 0u);
      std::memset(buffer->bytes().data(), 1, size);
      std::memset(other->bytes().data(), 2, size);
      EXPECT_EQ(buffer->bytes().front(), std::byte{1});
      EXPECT_EQ(buffer->bytes().back(), std::byte{1});
    }
  }
}

TEST(BounceBuffer, Fault19MemoryIsRecycledAndNotZeroed) {
  std::byte* before = nullptr;
  {
    const auto buffer = BounceBuffer::allocate(131072);
    before = buffer->bytes().data();
    std::memset(before, 0x5a, 131072);
  }
  const auto again = BounceBuffer::allocate(131072);
  EXPECT_EQ(again->bytes().data(), before);
  // The allocator's link lies in the first bytes; the others are unchanged.
  EXPECT_EQ(again->bytes()[64], std::byte{0x5a});
  EXPECT_EQ(again->bytes().back(), std::byte{0x5a});
}

TEST(BounceBuffer, MovesAndSwaps) {
  auto buffer = *BounceBuffer::allocate(10);
  auto other = *BounceBuffer::allocate(20);
  std::byte* const data = buffer.bytes().data();
  std::swap(buffer, other);
  EXPECT_EQ(other.bytes().data(), data);
  BounceBuffer third(std::move(other));
  EXPECT_EQ(third.bytes().data(), data);
  EXPECT_EQ(other.size(), 0u);  // NOLINT(bugprone-use-after-move): it is empty then
  EXPECT_EQ(other.segments().size(), 1u);
}

TEST(BounceBuffer, ImpossibleSizesAreErrors) {
  EXPECT_EQ(BounceBuffer::allocate(~std::size_t{0}).error().kind, ErrorKind::kTooLarge);
  EXPECT_FALSE(BounceBuffer::allocate(1, std::size_t{1} << 63));
}

TEST(BounceBuffer, MayBeReleasedOnAnotherThread) {
  auto buffer = *BounceBuffer::allocate(100);
  std::size_t left = 1;
  std::thread([&left, moved = std::move(buffer)]() mutable {
    moved = BounceBuffer();
    left = moved.size();
  }).join();
  EXPECT_EQ(left, 0U);
  BounceBuffer made_there;
  std::thread([&] { made_there = *BounceBuffer::allocate(100); }).join();
  std::memset(made_there.bytes().data(), 1, 100);
  EXPECT_EQ(made_there.bytes()[99], std::byte{1});
}

struct ReleasedLate {
  BounceBuffer buffer;
  ~ReleasedLate() { buffer = BounceBuffer(); }
};

TEST(BounceBuffer, MayOutliveItsThreadsCacheAndReturnsToThePool) {
  const auto release_late = [] {
    std::thread([] {
      // Constructed before the cache, hence destroyed after it.
      static thread_local ReleasedLate late;
      late.buffer = *BounceBuffer::allocate(100);
    }).join();
  };
  release_late();
  const std::size_t before = BouncePool::shared().mapped_bytes();
  // Leaking a page each time would need another slab in the end.
  for (std::size_t i = 0; i <= BouncePool::kSlabBytes / kPageSize; ++i) release_late();
  EXPECT_EQ(BouncePool::shared().mapped_bytes(), before);
}

}  // namespace
}  // namespace guestio::buf
