// SPDX-License-Identifier: MIT
#include "guestio/buf/request_buffers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <vector>

#include "guestio/mem/backing.h"

namespace guestio::buf {
namespace {

using mem::AddressRange;
using mem::AddressRanges;
using mem::GuestMemory;
using mem::PagedRange;
using mem::PagedRanges;
using testing::ElementsAre;
using testing::IsEmpty;

AddressRange range(std::uint64_t start, std::uint64_t length) {
  return AddressRange::from_checked(Gpa(start), length);
}

std::vector<std::byte> counted(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  return bytes;
}

std::uint64_t total(std::span<const IoBuffer> segments) {
  return std::accumulate(segments.begin(), segments.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const IoBuffer& one) { return sum + one.length; });
}

class RequestBuffersTest : public testing::Test {
 protected:
  template <typename Range>
  RequestBuffers writable(const Range& of) {
    return {memory_, of, MemoryAccess::kWritable};
  }
  template <typename Range>
  RequestBuffers read_only(const Range& of) {
    return {memory_, of, MemoryAccess::kReadOnly};
  }

  GuestMemory memory_ = *GuestMemory::allocate(ByteCount(4 << 20));
  std::byte* host_ = *memory_.host_range(Gpa(0), 1);
};

TEST_F(RequestBuffersTest, IsEmptyAndValidByDefault) {
  const RequestBuffers none;
  EXPECT_TRUE(none.is_empty());
  EXPECT_TRUE(none.is_aligned(4096));
  EXPECT_TRUE(none.reader().read({}));
  EXPECT_TRUE(none.writer().write({}));
  EXPECT_TRUE(none.mark_written());
  EXPECT_THAT(none.lock(MemoryAccess::kWritable)->segments(), IsEmpty());
  EXPECT_TRUE(none.subrange(0, 0).is_empty());
  EXPECT_TRUE(none.memory().regions().empty());
}

TEST_F(RequestBuffersTest, EveryKindOfRangeIsReadWrittenAndLocked) {
  const std::array gpns{Gpn(9), Gpn(4), Gpn(5)};
  const PagedRange paged = *PagedRange::from_pages(100, 3 * 4096 - 200, gpns);
  const std::array pages{paged.split(5000).front, paged.split(5000).back};
  const std::array extents{range(0x9064, 3996), range(0x4000, 8092)};
  const std::array kinds{writable(paged), writable(*PagedRanges::from_ranges(pages)),
                         writable(*AddressRanges::from_ranges(extents))};
  const auto bytes = counted(3 * 4096 - 200);
  for (const RequestBuffers& buffers : kinds) {
    ASSERT_TRUE(buffers.writer().zero(bytes.size()));
    ASSERT_TRUE(buffers.writer().write(bytes));
    for (const RequestBuffers& other : kinds) {
      std::vector<std::byte> back(bytes.size());
      ASSERT_TRUE(other.reader().read(back));
      EXPECT_EQ(back, bytes);
      EXPECT_THAT(other.lock(MemoryAccess::kWritable)->segments(),
                  ElementsAre(IoBuffer{host_ + 0x9064, 3996}, IoBuffer{host_ + 0x4000, 8092}));
    }
  }
  EXPECT_THAT(writable(range(0x4000, 8092)).lock(MemoryAccess::kReadOnly)->segments(),
              ElementsAre(IoBuffer{host_ + 0x4000, 8092}));
}

TEST_F(RequestBuffersTest, Fault02AWriterReportsItsRemainingBytes) {
  RequestWriter writer = writable(range(0, 4096)).writer();
  EXPECT_EQ(writer.remaining(), 4096u);
  ASSERT_TRUE(writer.write(counted(1000)));
  EXPECT_EQ(writer.remaining(), 3096u);
  ASSERT_TRUE(writer.zero(3096));
  EXPECT_EQ(writer.remaining(), 0u);
  EXPECT_EQ(writer.write(counted(1)).error(), Error::make(ErrorKind::kOutOfRange, "", 1, 0));
}

TEST_F(RequestBuffersTest, Fault02ReadOnlyWinsOverOutOfRange) {
  RequestWriter writer = read_only(range(0, 4096)).writer();
  EXPECT_EQ(writer.remaining(), 0u);
  EXPECT_EQ(writer.write(counted(4096)).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.write(counted(5000)).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.fill(std::byte{1}, 1).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.limit(16).write(counted(17)).error().kind, ErrorKind::kReadOnly);
  EXPECT_TRUE(writer.write({}));
  EXPECT_TRUE(writer.zero(0));
}

TEST_F(RequestBuffersTest, AReaderAdvancesOnSuccessOnly) {
  ASSERT_TRUE(memory_.write(Gpa(0), counted(16)));
  RequestReader reader = read_only(range(0, 16)).reader();
  std::array<std::byte, 17> bytes{};
  EXPECT_FALSE(reader.read(bytes));
  EXPECT_EQ(reader.remaining(), 16u);
  ASSERT_TRUE(reader.skip(6));
  ASSERT_TRUE(reader.read(std::span(bytes).first(10)));
  EXPECT_EQ(bytes[0], counted(16)[6]);
  EXPECT_EQ(reader.remaining(), 0u);
  EXPECT_TRUE(reader.read({}));
}

TEST_F(RequestBuffersTest, SubrangesAndSplitsKeepDirectionAndMeaning) {
  const std::array extents{range(0x1000, 10), range(0x3000, 10)};
  const RequestBuffers all =
      *RequestBuffers::from_extents(memory_, extents, MemoryAccess::kReadOnly);
  const auto halves = all.split(15);
  EXPECT_EQ(halves.front.size(), 15u);
  EXPECT_EQ(halves.back.access(), MemoryAccess::kReadOnly);
  EXPECT_THAT(halves.back.lock(MemoryAccess::kReadOnly)->segments(),
              ElementsAre(IoBuffer{host_ + 0x3005, 5}));
  EXPECT_THAT(all.subrange(9, 2).lock(MemoryAccess::kReadOnly)->segments(),
              ElementsAre(IoBuffer{host_ + 0x1009, 1}, IoBuffer{host_ + 0x3000, 1}));
  EXPECT_EQ(all.try_subrange(5, 16).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(all.try_split(21).error().kind, ErrorKind::kOutOfRange);
  EXPECT_TRUE(all.try_split(20)->back.is_empty());
}

TEST_F(RequestBuffersTest, ContractFormsStopTheProcess) {
  const RequestBuffers buffers = writable(range(0x1000, 100));
  EXPECT_DEATH((void)buffers.subrange(50, 51), "a subrange inside the range");
  EXPECT_DEATH((void)buffers.subrange(1, ~std::uint64_t{0}), "a subrange inside the range");
  EXPECT_DEATH((void)buffers.split(101), "a subrange inside the range");
  EXPECT_DEATH((void)buffers.is_aligned(0), "a power of two");
  EXPECT_DEATH((void)buffers.is_aligned(96), "a power of two");
}

TEST_F(RequestBuffersTest, OverflowingLengthsAreTooLarge) {
  const std::array extents{range(0, ~0ull), range(0, 2)};
  EXPECT_EQ(RequestBuffers::from_extents(memory_, extents, MemoryAccess::kReadOnly).error().kind,
            ErrorKind::kTooLarge);
}

TEST_F(RequestBuffersTest, Fault04ChecksAlignmentsAboveAPage) {
  const auto address = reinterpret_cast<std::uintptr_t>(host_);
  const std::uint64_t start = align_up(address, 1u << 20) - address;
  const RequestBuffers buffers = writable(range(start, 1 << 20));
  for (std::uint64_t alignment = 1; alignment <= 1 << 20; alignment *= 2) {
    EXPECT_TRUE(buffers.is_aligned(alignment)) << alignment;
    EXPECT_EQ(writable(range(start + 8192, 8192)).is_aligned(alignment), alignment <= 8192);
    EXPECT_EQ(writable(range(start, 512)).is_aligned(alignment), alignment <= 512);
  }
  EXPECT_FALSE(buffers.is_aligned(std::uint64_t{1} << 63));
}

TEST_F(RequestBuffersTest, Fault04ChecksTheAlignmentOfTheHostAddress) {
  // Guest address 0x1000 lies 512 bytes after the start of a host page.
  const mem::RegionSpec region{Gpa(0x1000), ByteCount(0x4000),
                               std::make_shared<mem::AnonymousBacking>(*Mapping::anonymous(0x5000)),
                               512};
  const GuestMemory shifted = *GuestMemory::create({&region, 1});
  const RequestBuffers buffers(shifted, range(0x1000, 4096), MemoryAccess::kWritable);
  EXPECT_TRUE(buffers.is_aligned(512));
  EXPECT_FALSE(buffers.is_aligned(1024));
  EXPECT_TRUE(
      RequestBuffers(shifted, range(0x1e00, 8192), MemoryAccess::kWritable).is_aligned(4096));
}

TEST_F(RequestBuffersTest, ExtentsAdjacentInHostMemoryAreAlignedAsOne) {
  const std::array meeting{range(0, 100), range(100, 412)};
  const std::array apart{range(0, 100), range(101, 412)};
  EXPECT_TRUE(writable(*AddressRanges::from_ranges(meeting)).is_aligned(512));
  EXPECT_FALSE(writable(*AddressRanges::from_ranges(apart)).is_aligned(2));
}

TEST_F(RequestBuffersTest, MissingMemoryIsNeverAligned) {
  EXPECT_FALSE(writable(range(4 << 20, 4096)).is_aligned(1));
}

TEST_F(RequestBuffersTest, LockingForWritingNeedsWritableMemory) {
  EXPECT_EQ(read_only(range(0, 8)).lock(MemoryAccess::kWritable).error().kind,
            ErrorKind::kReadOnly);
  EXPECT_TRUE(read_only(range(0, 8)).lock(MemoryAccess::kReadOnly));
  EXPECT_TRUE(read_only(range(0, 0)).lock(MemoryAccess::kWritable));
}

TEST_F(RequestBuffersTest, LocksEveryLengthAtEveryBoundaryOfARegion) {
  // Two adjacent regions in different mappings, then a hole, then a third region.
  const auto backing = [] {
    return std::make_shared<mem::AnonymousBacking>(*Mapping::anonymous(0x10000));
  };
  const std::array regions{mem::RegionSpec{Gpa(0x10000), ByteCount(0x10000), backing()},
                           mem::RegionSpec{Gpa(0x20000), ByteCount(0x8000), backing()},
                           mem::RegionSpec{Gpa(0x40000), ByteCount(0x10000), backing()}};
  const GuestMemory memory = *GuestMemory::create(regions);
  const auto is_memory = [](std::uint64_t start, std::uint64_t length) {
    return length == 0 || (start >= 0x10000 && start + length <= 0x28000) ||
           (start >= 0x40000 && start + length <= 0x50000);
  };
  for (const std::uint64_t length : {0U, 1U, 4095U, 4096U, 4097U}) {
    for (const std::uint64_t edge : {0x10000U, 0x20000U, 0x28000U, 0x40000U, 0x50000U}) {
      for (const std::uint64_t before :
           {std::uint64_t{0}, std::uint64_t{1}, length / 2, length, length + 1}) {
        const std::uint64_t start = edge - before;
        const RequestBuffers buffers(memory, range(start, length), MemoryAccess::kWritable);
        const auto locked = buffers.lock(MemoryAccess::kWritable);
        ASSERT_EQ(locked.has_value(), is_memory(start, length)) << start << " " << length;
        if (!locked) {
          EXPECT_EQ(locked.error().kind, ErrorKind::kOutOfRange);
          continue;
        }
        EXPECT_EQ(total(locked->segments()), length);
        const bool is_cut = start < 0x20000 && start + length > 0x20000;
        // Two backings that happen to be adjacent in host memory are merged.
        const std::size_t most = length == 0 ? 0 : is_cut ? 2 : 1;
        EXPECT_LE(locked->segments().size(), most);
        EXPECT_GE(locked->segments().size(), std::min<std::size_t>(most, 1));
      }
    }
  }
}

TEST_F(RequestBuffersTest, LocksMoreSegmentsThanItsInlineStorage) {
  for (const std::size_t count : {16u, 17u, 100u, 600u, 1000u}) {
    std::vector<Gpn> gpns(count);
    for (std::size_t i = 0; i < count; ++i) gpns[i] = Gpn((i * 2) % 1024);
    auto locked = writable(PagedRange::from_whole_pages(gpns)).lock(MemoryAccess::kWritable);
    ASSERT_TRUE(locked);
    const LockedIoBuffers moved = std::move(*locked);
    ASSERT_EQ(moved.segments().size(), count);
    EXPECT_TRUE(locked->segments().empty());
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_EQ(moved.segments()[i], (IoBuffer{host_ + gpns[i].raw() * 4096, 4096}));
    }
  }
}

TEST_F(RequestBuffersTest, AFailedLockReturnsOnlyItsError) {
  const std::array extents{range(0, 8), range(8 << 20, 8)};
  const auto locked = writable(*AddressRanges::from_ranges(extents)).lock(MemoryAccess::kWritable);
  EXPECT_EQ(locked.error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(locked.error().value, 8u << 20);
}

TEST_F(RequestBuffersTest, WritesOfTheKernelAreMarkedOnRequest) {
  const auto log = std::make_shared<mem::DirtyLog>(*mem::DirtyLog::for_memory(ByteCount(4 << 20)));
  const GuestMemory logged = memory_.with_dirty_log(log);
  const std::array gpns{Gpn(7), Gpn(3), Gpn(9)};
  const RequestBuffers buffers(logged, *PagedRange::from_pages(4000, 5000, gpns),
                               MemoryAccess::kWritable);
  const auto locked = buffers.lock(MemoryAccess::kWritable);
  EXPECT_FALSE(log->is_marked(Gpn(3)));
  EXPECT_TRUE(buffers.subrange(0, 96).mark_written());
  EXPECT_TRUE(log->is_marked(Gpn(7)));
  EXPECT_FALSE(log->is_marked(Gpn(3)));
  EXPECT_TRUE(buffers.mark_written());
  EXPECT_TRUE(log->is_marked(Gpn(3)));
  EXPECT_TRUE(log->is_marked(Gpn(9)));
  EXPECT_FALSE(log->is_marked(Gpn(8)));
}

}  // namespace
}  // namespace guestio::buf
