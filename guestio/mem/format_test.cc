// SPDX-License-Identifier: MIT
#include "guestio/mem/format.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::range;

TEST(Format, AnAddressRangeShowsItsEnds) {
  EXPECT_EQ(fmt::format("{}", range(0x1000, 0x1000)), "[0x1000, 0x2000)");
  EXPECT_EQ(fmt::format("{}", range(~std::uint64_t{0}, 1)), "[0xffffffffffffffff, 2^64)");
}

TEST(Format, APagedRangeShowsItsPages) {
  const std::array gpns{Gpn(7), Gpn(8), Gpn(~std::uint64_t{0})};
  EXPECT_EQ(fmt::format("{}", *PagedRange::from_pages(0x800, 6000, gpns)),
            "6000 bytes from 0x800 of pages 0x7 0x8");
  EXPECT_EQ(fmt::format("{}", *PagedRange::from_pages(0x2fff, 1, gpns)),
            "1 bytes from 0xfff of pages 0xffffffffffffffff");
  EXPECT_EQ(fmt::format("{}", PagedRange()), "0 bytes from 0x0 of pages");
}

TEST(Format, AListShowsItsRanges) {
  const std::array pieces{range(0x1000, 0x1000), range(0x9000, 2000), range(0, 100)};
  const auto list = AddressRanges::from_ranges(pieces)->subrange(0, 6000);
  EXPECT_EQ(fmt::format("{}", list), "6000 bytes {[0x1000, 0x2000), [0x9000, 0x9770)}");
  EXPECT_EQ(fmt::format("{}", AnyRange(list)), fmt::format("{}", list));
  EXPECT_EQ(fmt::format("{}", PagedRanges()), "0 bytes {}");
}

TEST(Format, AListOfAnyLengthIsOneLine) {
  const std::vector<Gpn> gpns(100'000, Gpn(1));
  EXPECT_EQ(fmt::format("{}", PagedRange::from_whole_pages(gpns)),
            "409600000 bytes from 0x0 of pages 0x1 0x1 0x1 0x1 0x1 0x1 0x1 0x1 0x1 0x1 0x1 0x1 0x1 "
            "0x1 0x1 0x1 …");
  const std::vector<AddressRange> pieces(17, range(0, 1));
  const std::string text = fmt::format("{}", *AddressRanges::from_ranges(pieces));
  EXPECT_TRUE(text.ends_with("[0x0, 0x1), …}")) << text;
}

TEST(Format, ASegmentShowsItsAddress) {
  EXPECT_EQ(fmt::format("{}", HostSegment{reinterpret_cast<std::byte*>(0x7000), 12}),
            "12 bytes at 0x7000");
}

}  // namespace
}  // namespace guestio::mem
