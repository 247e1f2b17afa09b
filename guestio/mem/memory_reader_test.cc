// SPDX-License-Identifier: MIT
#include "guestio/mem/memory_reader.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>

#include "guestio/mem/memory_writer.h"
#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::kTop;

constexpr std::array kPages{Gpn(2), Gpn(1)};

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

/// The last 16 bytes of page 2, then the first 16 of page 1.
class ReaderWriterTest : public testing::Test {
 protected:
  ReaderWriterTest() {
    for (std::uint64_t i = 0; i < 0x4000; ++i) {
      EXPECT_TRUE(memory_.store<std::uint8_t>(Gpa(i), static_cast<std::uint8_t>(i)));
    }
  }

  GuestMemory memory_ = *GuestMemory::allocate(ByteCount(0x4000));
  PagedRange range_ = *PagedRange::from_pages(0xff0, 0x20, kPages);
};

TEST_F(ReaderWriterTest, AReaderReadsSequentially) {
  MemoryReader reader(memory_, range_);
  std::array<std::byte, 0x12> buffer{};
  ASSERT_TRUE(reader.read(buffer));
  EXPECT_EQ(buffer[0], std::byte{0xf0});
  EXPECT_EQ(buffer[0x11], std::byte{1});
  EXPECT_EQ(reader.remaining(), 0xeu);
  ASSERT_TRUE(reader.skip(3));
  EXPECT_EQ(*reader.read_value<std::uint8_t>(), 5);
  EXPECT_EQ(reader.remaining(), 0xau);
}

TEST_F(ReaderWriterTest, AReaderReadsStructuresAcrossPages) {
  MemoryReader reader(memory_, range_);
  ASSERT_TRUE(reader.skip(8));
  const auto header = reader.read_value<Header>();
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, 0xfbfaf9f8u);
  EXPECT_EQ(header->sector, 0x0706050403020100u);
}

TEST_F(ReaderWriterTest, AFailedReadDoesNotAdvance) {
  MemoryReader reader(memory_, range_);
  std::array<std::byte, 0x21> buffer{};
  EXPECT_EQ(reader.read(buffer).error(), Error::make(ErrorKind::kOutOfRange, "", 0x21, 0x20));
  EXPECT_EQ(reader.skip(kTop).error(), Error::make(ErrorKind::kOutOfRange, "", kTop, 0x20));
  EXPECT_EQ(reader.remaining(), 0x20u);
  std::byte* const page = *memory_.host_range(Gpa(0x1000), 1);
  ASSERT_EQ(::mprotect(page, kPageSize, PROT_NONE), 0);
  EXPECT_EQ(reader.read(std::span(buffer).first(0x20)).error(),
            Error::make(ErrorKind::kMemoryFault, "", 0x1000));
  EXPECT_EQ(reader.remaining(), 0x20u) << "a faulting read does not advance";
  EXPECT_TRUE(reader.read(std::span(buffer).first(0x10)));
  EXPECT_EQ(reader.remaining(), 0x10u);
}

TEST_F(ReaderWriterTest, CallsForZeroBytesAlwaysSucceed) {
  const GuestMemory nothing;
  MemoryReader reader(nothing, PagedRange());
  EXPECT_TRUE(reader.read({}));
  EXPECT_TRUE(reader.skip(0));
  EXPECT_TRUE(reader.read_values<std::uint64_t>(0)->empty());
  MemoryWriter writer(nothing, PagedRange());
  EXPECT_TRUE(writer.write({}));
  EXPECT_TRUE(writer.zero(0));
  auto read_only = MemoryWriter<PagedRange>::read_only(nothing);
  EXPECT_TRUE(read_only.write({}));
  EXPECT_TRUE(read_only.fill(std::byte{1}, 0));
  EXPECT_TRUE(read_only.skip(0));
}

TEST_F(ReaderWriterTest, ALimitedReaderStopsAtItsLimit) {
  MemoryReader reader(memory_, range_);
  MemoryReader limited = reader.limit(4);
  EXPECT_EQ(limited.remaining(), 4u);
  EXPECT_EQ(limited.read_value<std::uint64_t>().error(),
            Error::make(ErrorKind::kOutOfRange, "", 8, 4));
  EXPECT_EQ(*limited.read_value<std::uint32_t>(), 0xf3f2f1f0u);
  EXPECT_EQ(limited.remaining(), 0u);
  EXPECT_EQ(reader.remaining(), 0x20u);
  EXPECT_EQ(reader.limit(kTop).remaining(), 0x20u);
}

TEST_F(ReaderWriterTest, Fault17CountedReadsCheckBeforeAllocating) {
  MemoryReader reader(memory_, range_);
  // Each of these would terminate the process if allocated first.
  EXPECT_EQ(reader.read_values<std::uint64_t>(std::uint64_t{1} << 50).error(),
            Error::make(ErrorKind::kOutOfRange, "", std::uint64_t{1} << 53, 0x20));
  EXPECT_EQ(reader.read_values<std::uint64_t>(kTop).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(reader.read_values<std::uint64_t>((std::uint64_t{1} << 61) + 1).error().kind,
            ErrorKind::kOutOfRange)
      << "the size in bytes does not fit 64 bits";
  const auto values = reader.read_values<std::uint16_t>(3);
  ASSERT_TRUE(values);
  EXPECT_EQ((*values)[2], 0xf5f4u);
  EXPECT_EQ(reader.remaining(), 0x1au);
}

TEST_F(ReaderWriterTest, AWriterWritesSequentially) {
  MemoryWriter writer(memory_, range_);
  ASSERT_TRUE(writer.write_value(Header{1, 2, 3}));
  ASSERT_TRUE(writer.fill(std::byte{0xaa}, 2));
  ASSERT_TRUE(writer.skip(1));
  ASSERT_TRUE(writer.zero(1));
  EXPECT_EQ(memory_.load<std::uint64_t>(Gpa(0x2ff8)), 3u);
  EXPECT_EQ(memory_.load<std::uint32_t>(Gpa(0x1000)), 0x0002aaaau);
  EXPECT_EQ(writer.remaining(), 12u);
}

TEST_F(ReaderWriterTest, Fault02RemainingShrinksWithEveryWrite) {
  MemoryWriter writer(memory_, range_);
  ASSERT_TRUE(writer.zero(0x20));
  EXPECT_EQ(writer.remaining(), 0u);
  EXPECT_EQ(writer.zero(1).error(), Error::make(ErrorKind::kOutOfRange, "", 1, 0));
}

TEST_F(ReaderWriterTest, Fault02AReadOnlyWriterFailsWithReadOnlyAtAnyLimit) {
  auto writer = MemoryWriter<PagedRange>::read_only(memory_);
  EXPECT_EQ(writer.remaining(), 0u);
  const std::array<std::byte, 1> one{};
  EXPECT_EQ(writer.write(one).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.fill(std::byte{1}, kTop).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.skip(1).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.limit(8).write(one).error().kind, ErrorKind::kReadOnly);
  EXPECT_EQ(writer.limit(0).limit(5).zero(3).error().kind, ErrorKind::kReadOnly);
}

TEST_F(ReaderWriterTest, AFailedWriteDoesNotAdvance) {
  MemoryWriter writer(memory_, range_);
  EXPECT_EQ(writer.zero(0x21).error(), Error::make(ErrorKind::kOutOfRange, "", 0x21, 0x20));
  EXPECT_EQ(writer.remaining(), 0x20u);
  EXPECT_EQ(memory_.load<std::uint8_t>(Gpa(0x2ff0)), 0xf0) << "nothing was written";
}

TEST_F(ReaderWriterTest, WorkOnEveryKindOfRange) {
  const std::array chain{AddressRange::from_checked(Gpa(0x10), 2),
                         AddressRange::from_checked(Gpa(0x3000), 2)};
  MemoryReader chained(memory_, *AddressRanges::from_ranges(chain));
  EXPECT_EQ(*chained.read_value<std::uint32_t>(), 0x01001110u);
  const std::array pieces{range_.subrange(0xf, 2), range_.subrange(0, 1)};
  MemoryReader scattered(memory_, *PagedRanges::from_ranges(pieces));
  EXPECT_EQ(*scattered.read_value<std::uint16_t>(), 0x00ffu);
  EXPECT_EQ(scattered.remaining(), 1u);
  MemoryWriter whole(memory_, chain[0]);
  EXPECT_TRUE(whole.write_value<std::uint16_t>(7));
  EXPECT_EQ(memory_.load<std::uint16_t>(Gpa(0x10)), 7u);
}

}  // namespace
}  // namespace guestio::mem
