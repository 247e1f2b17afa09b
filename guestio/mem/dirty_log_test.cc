// SPDX-License-Identifier: MIT
#include "guestio/mem/dirty_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "guestio/mem/guest_memory.h"
#include "guestio/mem/test/guarded_backing.h"
#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::range;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::uint64_t> marked_pages(const DirtyLog& log, std::uint64_t pages) {
  std::vector<std::uint64_t> marked;
  for (std::uint64_t page = 0; page < pages; ++page) {
    if (log.is_marked(Gpn(page))) marked.push_back(page);
  }
  return marked;
}

TEST(DirtyLog, MarksEveryPageOfARange) {
  const DirtyLog log = *DirtyLog::for_memory(ByteCount(64 * kPageSize));
  EXPECT_TRUE(log.mark(range(0x5fff, 2)));
  EXPECT_TRUE(log.mark(range(0x9000, 1)));
  EXPECT_TRUE(log.mark(range(0x20000, 0)));
  EXPECT_THAT(marked_pages(log, 64), ElementsAre(5, 6, 9));
}

TEST(DirtyLog, MarksEveryRangeExactly) {
  for (std::uint64_t first = 0; first < 20; ++first) {
    for (std::uint64_t count = 1; count < 24; ++count) {
      const DirtyLog log = *DirtyLog::for_memory(ByteCount(64 * kPageSize));
      ASSERT_TRUE(log.mark(range(first * kPageSize, count * kPageSize)));
      std::vector<std::uint64_t> expected(count);
      std::iota(expected.begin(), expected.end(), first);
      ASSERT_EQ(marked_pages(log, 64), expected);
    }
  }
}

TEST(DirtyLog, UsesTheLayoutOfVhost) {
  const DirtyLog log = *DirtyLog::for_memory(ByteCount(64 * kPageSize));
  EXPECT_TRUE(log.mark(range(10 * kPageSize, 1)));
  EXPECT_EQ(log.take(1), std::byte{4});
  EXPECT_EQ(log.take(1), std::byte{0});
}

TEST(DirtyLog, StaysInBounds) {
  const DirtyLog log = *DirtyLog::for_memory(ByteCount(16 * kPageSize));
  EXPECT_TRUE(log.mark(range(0xffff, 1)));
  EXPECT_EQ(log.mark(range(0xffff, 2)).error(), Error::make(ErrorKind::kOutOfRange, "", 16, 16));
  EXPECT_EQ(log.mark(range(~std::uint64_t{0}, 1)).error().kind, ErrorKind::kOutOfRange);
  EXPECT_FALSE(log.is_marked(Gpn(16)));
  EXPECT_FALSE(log.take(2));
  EXPECT_FALSE(DirtyLog::for_memory(ByteCount(0)));
}

TEST(DirtyLog, ATruncatedLogIsAMemoryFault) {
  Mapping bitmap = *Mapping::anonymous(kPageSize);
  ASSERT_EQ(::mprotect(bitmap.data(), kPageSize, PROT_NONE), 0);
  const DirtyLog log(std::move(bitmap));
  ASSERT_TRUE(install_fault_recovery());
  EXPECT_EQ(log.mark(range(0, 1)).error().kind, ErrorKind::kMemoryFault);
  EXPECT_FALSE(log.is_marked(Gpn(0)));
  EXPECT_EQ(log.take(0).error().kind, ErrorKind::kMemoryFault);
}

TEST(DirtyLog, LosesNoMarksToACollector) {
  constexpr std::uint64_t kPages = 64;
  const DirtyLog log = *DirtyLog::for_memory(ByteCount(kPages * kPageSize));
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < 20'000; ++i)
      EXPECT_TRUE(log.mark(range(i % kPages * kPageSize, 1)));
  });
  std::array<bool, kPages> collected{};
  const auto collect = [&] {
    for (std::uint64_t byte = 0; byte < kPages / 8; ++byte) {
      const auto taken = log.take(byte);
      if (!taken) continue;  // busy: next round
      for (std::uint64_t bit = 0; bit < 8; ++bit) {
        if (((*taken >> bit) & std::byte{1}) != std::byte{0}) collected[byte * 8 + bit] = true;
      }
    }
  };
  for (int round = 0; round < 100; ++round) collect();
  writer.join();
  collect();
  EXPECT_THAT(collected, testing::Each(true));
}

class LoggedMemoryTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 16;

  std::shared_ptr<const DirtyLog> log_ =
      std::make_shared<DirtyLog>(*DirtyLog::for_memory(ByteCount(kPages * kPageSize)));
  GuestMemory memory_ = GuestMemory::allocate(ByteCount(kPages * kPageSize))->with_dirty_log(log_);
};

TEST_F(LoggedMemoryTest, EveryKindOfWriteIsMarked) {
  std::array<std::byte, 2> two{};
  EXPECT_TRUE(memory_.write(Gpa(0x1fff), two));
  EXPECT_TRUE(memory_.fill(Gpa(0x4000), std::byte{1}, 1));
  EXPECT_TRUE(memory_.store<std::uint64_t>(Gpa(0x6008), 1));
  std::uint32_t word = 0;
  EXPECT_EQ(memory_.compare_exchange(Gpa(0x8000), word, 1), true);
  word = 5;
  EXPECT_EQ(memory_.compare_exchange(Gpa(0x9000), word, 1), false);
  EXPECT_THAT(marked_pages(*log_, kPages), ElementsAre(1, 2, 4, 6, 8));
}

TEST_F(LoggedMemoryTest, ReadsAreNotMarked) {
  std::array<std::byte, 0x2000> buffer{};
  EXPECT_TRUE(memory_.read(Gpa(0), buffer));
  EXPECT_TRUE(memory_.load<std::uint64_t>(Gpa(0)));
  SegmentArray<1> segments;
  EXPECT_TRUE(memory_.lock(range(0, 0x1000), Access::kWrite, segments));
  EXPECT_THAT(marked_pages(*log_, kPages), IsEmpty());
}

TEST_F(LoggedMemoryTest, WritesOfTheKernelAreMarkedOnDemand) {
  const std::array gpns{Gpn(3), Gpn(9)};
  EXPECT_TRUE(memory_.mark_written(*PagedRange::from_pages(0x800, 0x900, gpns)));
  EXPECT_THAT(marked_pages(*log_, kPages), ElementsAre(3, 9));
}

TEST_F(LoggedMemoryTest, AViewMarksThePagesOfTheWholeMemory) {
  const GuestMemory view = *memory_.subrange(range(0x3800, 0x2000));
  EXPECT_TRUE(view.store<std::uint8_t>(Gpa(0), 1));
  EXPECT_TRUE(view.mark_written(range(0x1800, 1)));
  EXPECT_THAT(marked_pages(*log_, kPages), ElementsAre(3, 5));
}

TEST_F(LoggedMemoryTest, LoggingCanBeDisabled) {
  const GuestMemory plain = memory_.with_dirty_log(nullptr);
  EXPECT_TRUE(plain.store<std::uint8_t>(Gpa(0), 1));
  EXPECT_TRUE(plain.mark_written(range(0, 1)));
  EXPECT_THAT(marked_pages(*log_, kPages), IsEmpty());
}

TEST_F(LoggedMemoryTest, APartiallyFailedWriteMarksItsWrittenPages) {
  ASSERT_EQ(::mprotect(*memory_.host_range(Gpa(0x2000), 1), kPageSize, PROT_NONE), 0);
  EXPECT_FALSE(memory_.fill(Gpa(0x800), std::byte{1}, 0x3000));
  EXPECT_THAT(marked_pages(*log_, kPages), ElementsAre(0, 1));
}

TEST_F(LoggedMemoryTest, AFallbackWriteIsMarked) {
  const auto backing = std::make_shared<test::GuardedBacking>(
      test::GuardedBacking::Options{.size = kPages * kPageSize, .mapped = 0x1000});
  const RegionSpec spec{Gpa(0), ByteCount(kPages * kPageSize), backing};
  const GuestMemory memory = GuestMemory::create({&spec, 1})->with_dirty_log(log_);
  EXPECT_TRUE(memory.fill(Gpa(0x2000), std::byte{1}, 0x1001));
  EXPECT_THAT(marked_pages(*log_, kPages), ElementsAre(2, 3));
}

TEST_F(LoggedMemoryTest, AWriteBeyondTheLogIsAnError) {
  const GuestMemory memory =
      GuestMemory::allocate(ByteCount(0x1000), Gpa(0x100000))->with_dirty_log(log_);
  EXPECT_EQ(memory.store<std::uint8_t>(Gpa(0x100000), 1).error().kind, ErrorKind::kOutOfRange);
}

}  // namespace
}  // namespace guestio::mem
