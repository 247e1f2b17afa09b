// SPDX-License-Identifier: MIT
// A warm thread handles requests without heap allocations. A separate program, because counting
// replaces operator new.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "guestio/buf/bounce_buffer.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/buf/owned_request_buffers.h"
#include "guestio/buf/transfer_plan.h"
#include "guestio/task/frame_pool.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "testing/count_allocations.h"

namespace guestio::buf {
namespace {

constexpr DirectIoLimits kLimits{512, 512, 512, 1024, std::uint64_t{1} << 30};

class AllocationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!task::FramePool::keeps_blocks()) GTEST_SKIP() << "this build keeps no blocks";
  }
  /// The heap allocations of a second run.
  static std::uint64_t count_of(const std::function<void()>& work) {
    work();
    const std::uint64_t before = testing::allocations();
    EXPECT_GT(before, 0u) << "the allocation counter does not work";
    work();
    return testing::allocations() - before;
  }
  std::vector<Gpn> scattered(std::size_t pages) {
    std::vector<Gpn> gpns(pages);
    for (std::size_t i = 0; i < pages; ++i) gpns[i] = Gpn((i * 1031 + 17) % 4096);
    return gpns;
  }

  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(16 << 20));
  std::unique_ptr<BounceBufferTracker> tracker_ =
      std::move(*BounceBufferTracker::create(ByteCount(8 << 20), 1));
};

TEST_F(AllocationTest, NoneInALockOfAnyLength) {
  for (const std::size_t pages : {1u, 16u, 17u, 256u, 1000u, 4000u}) {
    const auto gpns = scattered(pages);
    const RequestBuffers buffers(memory_, mem::PagedRange::from_whole_pages(gpns),
                                 MemoryAccess::kWritable);
    EXPECT_EQ(count_of([&] {
                const auto locked = buffers.lock(MemoryAccess::kWritable);
                ASSERT_EQ(locked->segments().size(), pages);
              }),
              0u)
        << pages;
  }
}

/// Two regions not adjacent in host memory: only one of them is on the fast path of a lock.
mem::GuestMemory two_regions() {
  std::vector<mem::RegionSpec> regions;
  for (const std::uint64_t start : {0u, 4u << 20}) {
    auto mapping = Mapping::anonymous(4 << 20);
    regions.push_back({Gpa(start), ByteCount(4 << 20),
                       std::make_shared<mem::AnonymousBacking>(std::move(*mapping))});
  }
  return *mem::GuestMemory::create(regions);
}

TEST_F(AllocationTest, NoneInALockOfExtentsThatCrossRegions) {
  const mem::GuestMemory memory = two_regions();
  for (const std::size_t count : {1u, 16u, 17u, 256u}) {
    std::vector<mem::AddressRange> extents;
    for (std::size_t i = 0; i < count; ++i) {
      extents.push_back(mem::AddressRange::from_checked(Gpa((4 << 20) - 100 * (i + 1)), 5000));
    }
    const auto buffers = *RequestBuffers::from_extents(memory, extents, MemoryAccess::kWritable);
    EXPECT_EQ(count_of([&] {
                auto locked = buffers.lock(MemoryAccess::kWritable);
                ASSERT_GE(locked->segments().size(), count);
                const LockedIoBuffers moved = std::move(*locked);
                ASSERT_GE(moved.segments().size(), count);
              }),
              0u)
        << count;
  }
}

TEST_F(AllocationTest, NoneInALockOfListsOfPages) {
  const auto gpns = scattered(64);
  std::vector<mem::PagedRange> pieces;
  for (std::size_t i = 0; i < gpns.size(); i += 4) {
    pieces.push_back(*mem::PagedRange::from_pages(100, 8000, std::span(gpns).subspan(i, 4)));
  }
  const RequestBuffers buffers(memory_, *mem::PagedRanges::from_ranges(pieces),
                               MemoryAccess::kWritable);
  EXPECT_EQ(
      count_of([&] { ASSERT_EQ(buffers.lock(MemoryAccess::kWritable)->segments().size(), 32u); }),
      0u);
}

TEST_F(AllocationTest, NoneInAFailedLock) {
  const std::vector<Gpn> outside(32, Gpn(1 << 20));
  const std::vector<Gpn> invalid(32, Gpn(~0ull));
  const RequestBuffers beyond(memory_, mem::PagedRange::from_whole_pages(outside),
                              MemoryAccess::kWritable);
  const RequestBuffers nowhere(memory_, mem::PagedRange::from_whole_pages(invalid),
                               MemoryAccess::kReadOnly);
  EXPECT_EQ(count_of([&] {
              EXPECT_FALSE(beyond.lock(MemoryAccess::kWritable));
              EXPECT_FALSE(nowhere.lock(MemoryAccess::kReadOnly));
              EXPECT_FALSE(nowhere.lock(MemoryAccess::kWritable));
            }),
            0u);
}

TEST_F(AllocationTest, NoneInReadingAndWriting) {
  const auto gpns = scattered(64);
  const RequestBuffers buffers(memory_, mem::PagedRange::from_whole_pages(gpns),
                               MemoryAccess::kWritable);
  std::vector<std::byte> local(buffers.size());
  EXPECT_EQ(count_of([&] {
              ASSERT_TRUE(buffers.reader().read(local));
              ASSERT_TRUE(buffers.writer().write(local));
              ASSERT_TRUE(buffers.writer().zero(local.size()));
              ASSERT_FALSE(buffers.reader().skip(local.size() + 1));
            }),
            0u);
}

TEST_F(AllocationTest, NoneInAPlanOfAnyLength) {
  for (const std::size_t pages : {1u, 16u, 256u, 4000u}) {
    const auto gpns = scattered(pages);
    // Separate pages, none at a block boundary.
    const RequestBuffers buffers(memory_,
                                 *mem::PagedRange::from_pages(100, pages * 4096 - 512, gpns),
                                 MemoryAccess::kReadOnly);
    const auto locked = buffers.lock(MemoryAccess::kReadOnly);
    EXPECT_EQ(count_of([&] {
                const TransferPlan plan(
                    {SegmentCursor(locked->segments()), FileOffset(0), buffers.size()}, kLimits,
                    {.max_bounce = BouncePool::kSlabBytes});
                const auto bounce = tracker_->account(0).try_acquire(plan.bounce_size());
                ASSERT_TRUE(bounce);
                ASSERT_TRUE(plan.copy_in(SegmentCursor(locked->segments()), bounce->bytes()));
                ASSERT_EQ(plan.segments(bounce->bytes()).size(), plan.pieces().size());
              }),
              0u)
        << pages;
  }
}

TEST_F(AllocationTest, NoneInAcquiringAndReleasing) {
  EXPECT_EQ(count_of([&] {
              for (const std::size_t size : {1u, 4096u, 65536u, 131072u, 1u << 20}) {
                ASSERT_TRUE(tracker_->account(0).try_acquire(size));
                ASSERT_TRUE(BounceBuffer::allocate(size));
                ASSERT_TRUE(tracker_->account(0).try_acquire(size, {.alignment = 65536}));
              }
            }),
            0u);
}

task::Task<> acquire_and_drop(BounceAccount& account, std::size_t size) {
  const AcquireOptions options;
  const auto bounce = co_await account.acquire(size, options);
  EXPECT_TRUE(bounce.has_value());
}

task::Task<> be_cancelled(BounceAccount& account, std::size_t size, task::StopToken token) {
  const AcquireOptions options{.token = token};
  const auto bounce = co_await account.acquire(size, options);
  EXPECT_FALSE(bounce.has_value());
}

TEST_F(AllocationTest, NoneInWaiting) {
  BounceAccount& account = tracker_->account(0);
  EXPECT_EQ(count_of([&] {
              task::Scope scope;
              std::array<Result<TrackedBounceBuffer>, 4> all;
              for (auto& part : all) part = account.try_acquire(account.max_grant() / all.size());
              for (std::size_t i = 0; i < 100; ++i)
                scope.spawn(acquire_and_drop(account, 4096 * (1 + i % 7)));
              ASSERT_EQ(scope.running(), 100u);
              for (auto& part : all) *part = TrackedBounceBuffer();
              ASSERT_EQ(scope.running(), 0u);
            }),
            0u);
  EXPECT_GT(account.statistics().waits, 0u);
}

TEST_F(AllocationTest, NoneInCancelling) {
  BounceAccount& account = tracker_->account(0);
  EXPECT_EQ(count_of([&] {
              task::StopSource stop;
              task::Scope scope;
              // In parts: a block larger than a slab is mapped each time.
              std::array<Result<TrackedBounceBuffer>, 4> all;
              for (auto& part : all) part = account.try_acquire(account.max_grant() / all.size());
              for (std::size_t i = 0; i < 20; ++i) {
                scope.spawn(be_cancelled(account, 4096, stop.token()));
              }
              EXPECT_FALSE(account.try_acquire(4096));
              stop.request_stop();
              ASSERT_EQ(scope.running(), 0u);
            }),
            0u);
  EXPECT_GT(account.statistics().cancelled, 0u);
}

TEST_F(AllocationTest, NoneInPassingOverflowToAnotherThread) {
  const auto tracker = *BounceBufferTracker::create(ByteCount(16 * kPageSize), 2);
  BounceAccount& first = tracker->account(0);
  BounceAccount& second = tracker->account(1);
  bool is_called = false;
  for (BounceAccount* account : {&first, &second}) {
    account->open([&](BounceAccount&) { is_called = true; });
  }
  EXPECT_EQ(count_of([&] {
              task::Scope scope;
              auto max_grant = first.try_acquire(first.max_grant());
              scope.spawn(acquire_and_drop(second, 16 * kPageSize));
              ASSERT_EQ(scope.running(), 1u);
              *max_grant = TrackedBounceBuffer();
              ASSERT_TRUE(std::exchange(is_called, false));
              second.serve();
              ASSERT_EQ(scope.running(), 0u);
            }),
            0u);
  first.close();
  second.close();
}

TEST_F(AllocationTest, NoneInErrors) {
  EXPECT_EQ(count_of([&] {
              EXPECT_FALSE(OwnedRequestBuffers::linear(Gpa(0), ~0ull));
              EXPECT_FALSE(OwnedRequestBuffers::linear(Gpa(~0ull - 1), 4096));
              EXPECT_FALSE(OwnedRequestBuffers::from_pages({}, 0, ~0ull));
              EXPECT_FALSE(tracker_->account(0).try_acquire(~std::size_t{0}));
              EXPECT_FALSE(BounceBuffer::allocate(~std::size_t{0}));
            }),
            0u);
}

TEST_F(AllocationTest, Fault03NoneInLinearBuffersOfAnyLength) {
  EXPECT_EQ(count_of([] {
              EXPECT_TRUE(OwnedRequestBuffers::linear(Gpa(1), 4096));
              EXPECT_TRUE(OwnedRequestBuffers::linear(Gpa(1), OwnedRequestBuffers::kMaxBytes));
              EXPECT_FALSE(OwnedRequestBuffers::linear(Gpa(1), 1ull << 52));
            }),
            0u);
}

}  // namespace
}  // namespace guestio::buf
