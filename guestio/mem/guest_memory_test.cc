// SPDX-License-Identifier: MIT
#include "guestio/mem/guest_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::kTop;
using test::range;
using testing::ElementsAre;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string read_text(const GuestMemory& memory, Gpa from, std::size_t length) {
  std::string text(length, '?');
  EXPECT_TRUE(memory.read(from, std::as_writable_bytes(std::span(text))));
  return text;
}

std::shared_ptr<Backing> make_backing(std::size_t size) {
  return std::make_shared<AnonymousBacking>(*Mapping::anonymous(size));
}

/// [0, 0x3000) [0x3000, 0x5000) a hole [0x10000, 0x11234)
GuestMemory three_regions() {
  const std::array specs{
      RegionSpec{Gpa(0x10000), ByteCount(0x1234), make_backing(0x1234)},
      RegionSpec{Gpa(0), ByteCount(0x3000), make_backing(0x3000)},
      RegionSpec{Gpa(0x3000), ByteCount(0x2000), make_backing(0x4000), 0x1000},
  };
  return *GuestMemory::create(specs);
}

TEST(GuestMemory, ReadsWrittenBytes) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x10000), Gpa(0x1000));
  ASSERT_TRUE(memory.write(Gpa(0x1ffe), bytes_of("across a page")));
  EXPECT_EQ(read_text(memory, Gpa(0x1ffe), 13), "across a page");
  ASSERT_TRUE(memory.fill(Gpa(0x1fff), std::byte{'x'}, 3));
  EXPECT_EQ(read_text(memory, Gpa(0x1ffe), 6), "axxxss");
}

TEST(GuestMemory, CopiesAcrossAdjacentRegions) {
  const GuestMemory memory = three_regions();
  ASSERT_TRUE(memory.write(Gpa(0x2ffd), bytes_of("border")));
  EXPECT_EQ(read_text(memory, Gpa(0x2ffd), 6), "border");
  EXPECT_EQ(read_text(memory, Gpa(0x3000), 3), "der");
}

TEST(GuestMemory, TypedAccessesWorkAtAnyAddress) {
  const GuestMemory memory = three_regions();
  for (const Gpa at : {Gpa(0x10), Gpa(0x13), Gpa(0x2fff), Gpa(0x10008), Gpa(0x10ffd)}) {
    ASSERT_TRUE(memory.store<std::uint64_t>(at, 0x1122334455667788)) << at.raw();
    EXPECT_EQ(memory.load<std::uint64_t>(at), 0x1122334455667788u);
    EXPECT_EQ(memory.load<std::uint32_t>(at), 0x55667788u);
    EXPECT_EQ(memory.load<std::uint16_t>(at), 0x7788u);
    EXPECT_EQ(memory.load<std::uint8_t>(at), 0x88u);
    ASSERT_TRUE(memory.store<std::uint16_t>(at, 0xabcd));
    EXPECT_EQ(memory.load<std::uint64_t>(at), 0x112233445566abcdu);
  }
}

TEST(GuestMemory, CompareExchangeStoresOnlyIfEqual) {
  const GuestMemory memory = three_regions();
  ASSERT_TRUE(memory.store<std::uint32_t>(Gpa(0x10004), 7));
  std::uint32_t expected = 8;
  EXPECT_EQ(memory.compare_exchange(Gpa(0x10004), expected, 9), false);
  EXPECT_EQ(expected, 7u);
  EXPECT_EQ(memory.compare_exchange(Gpa(0x10004), expected, 9), true);
  EXPECT_EQ(memory.load<std::uint32_t>(Gpa(0x10004)), 9u);
}

TEST(GuestMemory, Fault16CompareExchangeRequiresNaturalAlignment) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x2000));
  std::uint64_t eight = 0;
  std::uint16_t two = 0;
  EXPECT_EQ(memory.compare_exchange(Gpa(60), eight, 1).error(),
            Error::make(ErrorKind::kMisaligned, "", 60, 8));
  EXPECT_EQ(memory.compare_exchange(Gpa(0xfff), two, 1).error().kind, ErrorKind::kMisaligned);
  const GuestMemory view = *memory.subrange(range(4, 0x100));
  EXPECT_EQ(view.compare_exchange(Gpa(0), eight, 1).error().kind, ErrorKind::kMisaligned)
      << "aligned in the view, not in the host";
}

TEST(GuestMemory, NamesTheFirstAddressOutside) {
  const GuestMemory memory = three_regions();
  std::array<std::byte, 16> buffer{};
  EXPECT_EQ(memory.read(Gpa(0x4ff8), buffer).error(),
            Error::make(ErrorKind::kOutOfRange, "", 0x5000, 0x11234));
  EXPECT_EQ(memory.write(Gpa(0x11230), buffer).error().value, 0x11234u);
  EXPECT_EQ(memory.fill(Gpa(0x8000), std::byte{}, 1).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory.read(Gpa(kTop), buffer).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory.load<std::uint64_t>(Gpa(kTop - 3)).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory.fill(Gpa(1), std::byte{}, kTop).error().kind, ErrorKind::kOutOfRange);
}

TEST(GuestMemory, AnAccessOfZeroBytesSucceedsEverywhere) {
  for (const GuestMemory& memory : {three_regions(), GuestMemory()}) {
    EXPECT_TRUE(memory.read(Gpa(kTop), {}));
    EXPECT_TRUE(memory.write(Gpa(0x8000), {}));
    EXPECT_TRUE(memory.fill(Gpa(0x5000), std::byte{1}, 0));
    EXPECT_TRUE(memory.probe(range(kTop, 0), Access::kWrite));
    EXPECT_EQ(memory.host_range(Gpa(0x8000), 0), nullptr);
    SegmentArray<4> segments;
    EXPECT_TRUE(memory.lock(range(0x8000, 0), Access::kRead, segments));
    EXPECT_TRUE(segments.empty());
  }
}

TEST(GuestMemory, WithoutRegionsEverythingIsOutside) {
  const GuestMemory memory;
  EXPECT_EQ(memory.load<std::uint8_t>(Gpa(0)).error(),
            Error::make(ErrorKind::kOutOfRange, "", 0, 0));
  EXPECT_TRUE(memory.regions().empty());
}

TEST(GuestMemory, AMovedFromHandleHasNoMemory) {
  GuestMemory memory = *GuestMemory::allocate(ByteCount(0x1000));
  const GuestMemory moved = std::move(memory);
  EXPECT_TRUE(moved.load<std::uint8_t>(Gpa(0)));
  EXPECT_FALSE(memory.load<std::uint8_t>(Gpa(0)));  // NOLINT(bugprone-use-after-move)
}

TEST(GuestMemory, RejectsInvalidRegions) {
  const auto kind_of = [](std::vector<RegionSpec> specs) {
    return GuestMemory::create(specs).error().kind;
  };
  const auto backing = make_backing(0x3000);
  EXPECT_EQ(kind_of({{Gpa(0), ByteCount(0), backing}}), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of({{Gpa(0), ByteCount(0x1000), nullptr}}), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of({{Gpa(0), ByteCount(0x3001), backing}}), ErrorKind::kOutOfRange);
  EXPECT_EQ(kind_of({{Gpa(0), ByteCount(0x2000), backing, 0x1001}}), ErrorKind::kOutOfRange);
  EXPECT_EQ(kind_of({{Gpa(0), ByteCount(2), backing, kTop}}), ErrorKind::kOutOfRange);
  EXPECT_EQ(kind_of({{Gpa(kTop - 0xfff), ByteCount(0x1001), backing}}), ErrorKind::kOutOfRange);
  EXPECT_EQ(
      kind_of({{Gpa(0x1000), ByteCount(0x1000), backing}, {Gpa(0), ByteCount(0x1001), backing}}),
      ErrorKind::kInvalidArgument);
}

TEST(GuestMemory, Fault10ARegionOfAnySizeIsUsableToItsLastByte) {
  for (const std::uint64_t size : {0x1000u, 0x1001u, 0x1fffu, 0x10000u, 1u}) {
    const GuestMemory memory = *GuestMemory::allocate(ByteCount(size));
    EXPECT_TRUE(memory.store<std::uint8_t>(Gpa(size - 1), 0x5a));
    EXPECT_EQ(memory.load<std::uint8_t>(Gpa(size - 1)), 0x5a);
    EXPECT_FALSE(memory.store<std::uint8_t>(Gpa(size), 0x5a));
    EXPECT_TRUE(memory.fill(Gpa(0), std::byte{1}, size));
  }
}

TEST(GuestMemory, ARegionMayEndWithTheLastAddress) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x1000), Gpa(kTop - 0xfff));
  EXPECT_TRUE(memory.store<std::uint64_t>(Gpa(kTop - 7), 42));
  EXPECT_EQ(memory.load<std::uint64_t>(Gpa(kTop - 7)), 42u);
  EXPECT_FALSE(memory.load<std::uint64_t>(Gpa(kTop - 6)));
  EXPECT_TRUE(memory.fill(Gpa(kTop - 0xfff), std::byte{1}, 0x1000));
  EXPECT_TRUE(memory.subrange(range(kTop - 0xf, 16)));
}

TEST(GuestMemory, FindsAddressesAmongManyRegions) {
  std::vector<RegionSpec> specs;
  for (std::uint64_t i = 0; i < 509; ++i) {
    specs.push_back({Gpa(i * 0x4000), ByteCount(0x1000), make_backing(0x1000)});
  }
  const GuestMemory memory = *GuestMemory::create(specs);
  for (std::uint64_t i = 0; i < 509; ++i) {
    ASSERT_TRUE(memory.store<std::uint64_t>(Gpa(i * 0x4000 + 8), i));
    ASSERT_FALSE(memory.store<std::uint64_t>(Gpa(i * 0x4000 + 0x1000), i));
  }
  for (std::uint64_t i = 0; i < 509; ++i) {
    ASSERT_EQ(memory.load<std::uint64_t>(Gpa(i * 0x4000 + 8)), i);
  }
}

TEST(GuestMemory, ReturnsHostBytesOfOneRegion) {
  const GuestMemory memory = three_regions();
  const auto host = memory.host_range(Gpa(0x3010), 0x1ff0);
  ASSERT_TRUE(host);
  EXPECT_TRUE(try_store(reinterpret_cast<std::uint32_t*>(*host), 99));
  EXPECT_EQ(memory.load<std::uint32_t>(Gpa(0x3010)), 99u);
  EXPECT_EQ(memory.host_range(Gpa(0x2ff0), 0x20).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory.host_range(Gpa(0x5000), 1).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(memory.host_range(Gpa(0x3000), kTop).error().kind, ErrorKind::kOutOfRange);
}

TEST(GuestMemory, AViewStartsAtAddressZero) {
  const GuestMemory memory = three_regions();
  ASSERT_TRUE(memory.write(Gpa(0x2ffe), bytes_of("window")));
  const GuestMemory view = *memory.subrange(range(0x2ffd, 0xe000));
  EXPECT_EQ(read_text(view, Gpa(1), 6), "window");
  EXPECT_EQ(view.end(), Gpa(0xe000));
  EXPECT_FALSE(view.load<std::uint8_t>(Gpa(0x2003))) << "a hole stays a hole";
  EXPECT_TRUE(view.load<std::uint8_t>(Gpa(0xd003)));
  const GuestMemory inner = *view.subrange(range(3, 2));
  EXPECT_EQ(read_text(inner, Gpa(0), 2), "nd");
  EXPECT_FALSE(inner.load<std::uint8_t>(Gpa(2)));
}

TEST(GuestMemory, AViewMustEndInsideTheMemory) {
  const GuestMemory memory = three_regions();
  EXPECT_FALSE(memory.subrange(range(0x11233, 2)));
  EXPECT_TRUE(memory.subrange(range(0x11233, 1)));
  EXPECT_TRUE(memory.subrange(range(0x99999, 0)));
  EXPECT_FALSE(GuestMemory().subrange(range(0, 1)));
}

TEST(GuestMemory, ListsItsRegionsInOrder) {
  const GuestMemory memory = three_regions();
  const auto regions = memory.regions();
  ASSERT_EQ(regions.size(), 3u);
  EXPECT_EQ(regions[1].start, Gpa(0x3000));
  EXPECT_EQ(regions[1].length, 0x2000u);
  EXPECT_EQ(regions[1].host, *memory.host_range(Gpa(0x3000), 1));
  EXPECT_EQ(memory.end(), Gpa(0x11234));
}

TEST(GuestMemory, ReadsAndWritesRangesOfEveryKind) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x10000));
  const std::array gpns{Gpn(5), Gpn(6), Gpn(2)};
  const PagedRange paged = *PagedRange::from_pages(0xffe, 0x1004, gpns);
  const std::array pieces{range(0x9000, 3), range(0x9100, 0), range(0x8000, 4)};
  const auto list = *AddressRanges::from_ranges(pieces);
  std::vector<std::byte> data(0x1004);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 31);
  ASSERT_TRUE(memory.write(paged, data));
  EXPECT_EQ(memory.load<std::uint8_t>(Gpa(0x5ffe)), 0);
  EXPECT_EQ(memory.load<std::uint8_t>(Gpa(0x2000)), static_cast<std::uint8_t>(0x1002 * 31));
  std::vector<std::byte> back(0x1004);
  ASSERT_TRUE(memory.read(paged, back));
  EXPECT_EQ(back, data);

  ASSERT_TRUE(memory.write(list, bytes_of("1234567")));
  EXPECT_EQ(read_text(memory, Gpa(0x9000), 3), "123");
  EXPECT_EQ(read_text(memory, Gpa(0x8000), 4), "4567");
  ASSERT_TRUE(memory.fill(list, std::byte{'z'}, 5)) << "the first bytes only";
  EXPECT_EQ(read_text(memory, Gpa(0x8000), 4), "zz67");
  EXPECT_EQ(memory.fill(list, std::byte{'z'}, 8).error(),
            Error::make(ErrorKind::kOutOfRange, "", 8, 7));
}

TEST(GuestMemory, LocksRangesAsMergedHostSegments) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x10000));
  std::byte* const host = *memory.host_range(Gpa(0), 1);
  const std::array gpns{Gpn(5), Gpn(6), Gpn(2), Gpn(3)};
  SegmentArray<4> segments;
  const auto lock =
      memory.lock(*PagedRange::from_pages(0x10, 0x3000, gpns), Access::kWrite, segments);
  ASSERT_TRUE(lock);
  EXPECT_THAT(segments,
              ElementsAre(HostSegment{host + 0x5010, 0x1ff0}, HostSegment{host + 0x2000, 0x1010}));
}

TEST(GuestMemory, LocksAChainAndMergesAdjacentExtents) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x10000));
  std::byte* const host = *memory.host_range(Gpa(0), 1);
  const std::array chain{range(0x100, 0x10), range(0x110, 0x1000), range(0x9000, 0),
                         range(0x1110, 5), range(0x3001, 2)};
  SegmentArray<4> segments;
  ASSERT_TRUE(memory.lock(std::span<const AddressRange>(chain), Access::kRead, segments));
  EXPECT_THAT(segments,
              ElementsAre(HostSegment{host + 0x100, 0x1015}, HostSegment{host + 0x3001, 2}));
}

TEST(GuestMemory, AFailedLockLeavesNoSegments) {
  const GuestMemory memory = three_regions();
  SegmentArray<4> segments{HostSegment{nullptr, 77}};
  const std::array chain{range(0, 8), range(0x4fff, 2)};
  const auto lock = memory.lock(std::span<const AddressRange>(chain), Access::kRead, segments);
  EXPECT_EQ(lock.error(), Error::make(ErrorKind::kOutOfRange, "", 0x5000, 0x11234));
  EXPECT_TRUE(segments.empty());
}

TEST(GuestMemory, AMissingPageIsAMemoryFaultWithItsAddress) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x4000), Gpa(0x1000));
  std::byte* const host = *memory.host_range(Gpa(0x1000), 1);
  ASSERT_EQ(::mprotect(host + 0x2000, 0x1000, PROT_NONE), 0);
  std::vector<std::byte> buffer(0x2000);
  const Error fault = Error::make(ErrorKind::kMemoryFault, "", 0x3000);
  EXPECT_EQ(memory.read(Gpa(0x2800), buffer).error(), fault);
  EXPECT_EQ(memory.write(Gpa(0x2800), buffer).error(), fault);
  EXPECT_EQ(memory.fill(Gpa(0x2800), std::byte{}, 0x1000).error(), fault);
  EXPECT_EQ(memory.load<std::uint32_t>(Gpa(0x3000)).error(), fault);
  EXPECT_EQ(memory.store<std::uint32_t>(Gpa(0x3000), 1).error(), fault);
  EXPECT_EQ(memory.probe(range(0x2000, 0x3000), Access::kRead).error(), fault);
  std::uint64_t word = 0;
  EXPECT_EQ(memory.compare_exchange(Gpa(0x3000), word, 1).error(), fault);
}

TEST(GuestMemory, Fault18AFaultInTheCallersBufferHasItsOwnError) {
  const GuestMemory memory = *GuestMemory::allocate(ByteCount(0x4000));
  const Mapping local = *Mapping::anonymous(0x2000);
  ASSERT_EQ(::mprotect(local.data() + 0x1000, 0x1000, PROT_NONE), 0);
  for (const auto& result :
       {memory.read(Gpa(0), local.bytes()), memory.write(Gpa(0), local.bytes())}) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind, ErrorKind::kMemoryFault);
    EXPECT_EQ(result.error().value, reinterpret_cast<std::uintptr_t>(local.data() + 0x1000));
    EXPECT_STREQ(result.error().what, "buffer of the caller");
  }
}

}  // namespace
}  // namespace guestio::mem
