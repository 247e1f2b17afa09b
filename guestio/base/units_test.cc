// SPDX-License-Identifier: MIT
#include "guestio/base/units.h"

#include <gtest/gtest.h>

namespace guestio {
namespace {

constexpr auto kMaximum = std::numeric_limits<std::uint64_t>::max();

static_assert(!std::is_convertible_v<Gpa, std::uint64_t>);
static_assert(!std::is_convertible_v<std::uint64_t, Gpa>);
static_assert(!std::is_convertible_v<FrontendAddress, Gpa>);

TEST(Units, AddressesDoNotWrapAround) {
  EXPECT_EQ(Gpa(kMaximum).plus(1), std::nullopt);
  EXPECT_EQ(Gpa(8).plus(8), Gpa(16));
  EXPECT_EQ(Gpa(16).offset_from(Gpa(8)), 8u);
}

TEST(Units, AnOverflowingPageNumberHasNoAddress) {
  EXPECT_EQ(Gpn(2).to_gpa(), Gpa(8192));
  EXPECT_EQ(Gpn(std::uint64_t{1} << 52).to_gpa(), std::nullopt);
  EXPECT_EQ(Gpn((std::uint64_t{1} << 52) - 1).to_gpa(), Gpa(kMaximum - 4095));
  EXPECT_EQ(Gpn::containing(Gpa(8191)), Gpn(1));
}

TEST(Units, ASectorBeyondSixtyFourBitsHasNoOffset) {
  EXPECT_EQ(Sector(2).to_offset(), FileOffset(1024));
  EXPECT_EQ(Sector(kMaximum / 512 + 1).to_offset(), std::nullopt);
}

TEST(Units, ParsesSizesWithUnits) {
  EXPECT_EQ(parse_byte_count("4096"), ByteCount(4096));
  EXPECT_EQ(parse_byte_count("4k"), ByteCount(4096));
  EXPECT_EQ(parse_byte_count("1MiB"), ByteCount(1 << 20));
  EXPECT_EQ(parse_byte_count("2GB"), ByteCount(std::uint64_t{2} << 30));
  EXPECT_EQ(parse_byte_count("0"), ByteCount(0));
}

TEST(Units, RejectsMalformedSizes) {
  for (const char* text :
       {"", "k", "-1", "4x", "4kk", "4 k", "1.5G", "99999999999999999999", "16E"}) {
    EXPECT_EQ(parse_byte_count(text), std::nullopt) << text;
  }
}

TEST(Units, FormatsSizesInTheLargestUnit) {
  EXPECT_EQ(format_byte_count(ByteCount(512)), "512 B");
  EXPECT_EQ(format_byte_count(ByteCount(std::uint64_t{3} << 29)), "1.5 GiB");
}

TEST(Units, NumbersPrint) { EXPECT_EQ(fmt::format("{:#x}", Gpa(255)), "0xff"); }

}  // namespace
}  // namespace guestio
