// SPDX-License-Identifier: MIT
#include "guestio/mem/address_range.h"

#include <gtest/gtest.h>

#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::kTop;
using test::range;

TEST(AddressRange, HoldsItsStartLengthEndAndLastByte) {
  const auto r = AddressRange::from_start_and_length(Gpa(0x1000), 0x20);
  ASSERT_TRUE(r.has_value());
  EXPECT_EQ(r->start(), Gpa(0x1000));
  EXPECT_EQ(r->length(), 0x20u);
  EXPECT_EQ(r->end(), Gpa(0x1020));
  EXPECT_EQ(r->last(), Gpa(0x101f));
  EXPECT_FALSE(r->is_empty());
}

TEST(AddressRange, MayEndAtTheLastByteOfTheAddressSpace) {
  const auto r = AddressRange::from_start_and_length(Gpa(kTop), 1);
  ASSERT_TRUE(r.has_value());
  EXPECT_EQ(r->last(), Gpa(kTop));
  EXPECT_FALSE(r->end().has_value());
}

TEST(AddressRange, CannotWrapAround) {
  const auto r = AddressRange::from_start_and_length(Gpa(kTop), 2);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, ErrorKind::kOutOfRange);
  EXPECT_FALSE(AddressRange::from_start_and_length(Gpa(1), kTop + 0).has_value() &&
               AddressRange::from_start_and_length(Gpa(2), kTop).has_value());
}

TEST(AddressRange, CannotStartAfterItsEnd) {
  const auto r = AddressRange::from_start_and_end(Gpa(2), Gpa(1));
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().kind, ErrorKind::kInvalidArgument);
}

TEST(AddressRange, AnEmptyRangeKeepsItsPosition) {
  const auto r = AddressRange::from_start_and_end(Gpa(7), Gpa(7));
  ASSERT_TRUE(r.has_value());
  EXPECT_TRUE(r->is_empty());
  EXPECT_EQ(r->start(), Gpa(7));
  EXPECT_FALSE(r->contains(Gpa(7)));
}

TEST(AddressRange, KnowsWhatItContainsAndOverlaps) {
  const AddressRange r = range(100, 50);
  EXPECT_TRUE(r.contains(Gpa(100)));
  EXPECT_TRUE(r.contains(Gpa(149)));
  EXPECT_FALSE(r.contains(Gpa(150)));
  EXPECT_FALSE(r.contains(Gpa(99)));
  EXPECT_TRUE(r.contains(range(100, 50)));
  EXPECT_FALSE(r.contains(range(100, 51)));
  EXPECT_TRUE(r.contains(range(999, 0)));
  EXPECT_TRUE(r.overlaps(range(149, 10)));
  EXPECT_FALSE(r.overlaps(range(150, 10)));
  EXPECT_FALSE(r.overlaps(range(120, 0)));
}

TEST(AddressRange, ReturnsSubrangesInsideItself) {
  const AddressRange r = range(100, 50);
  EXPECT_EQ(r.try_subrange(10, 40), range(110, 40));
  EXPECT_EQ(r.try_subrange(50, 0), range(150, 0));
  EXPECT_EQ(r.subrange(0, 50), r);
}

TEST(AddressRange, RejectsSubrangesBeyondItself) {
  const AddressRange r = range(100, 50);
  const auto sub = r.try_subrange(10, 41);
  ASSERT_FALSE(sub.has_value());
  EXPECT_EQ(sub.error(), Error::make(ErrorKind::kOutOfRange, "", 41, 40));
  EXPECT_FALSE(r.try_subrange(51, 0).has_value());
  EXPECT_FALSE(r.try_subrange(1, kTop).has_value());
}

TEST(AddressRangeDeathTest, ASubrangeOutsideIsABugOfTheCaller) {
  EXPECT_DEATH((void)range(100, 50).subrange(10, 41), "a subrange inside the range");
}

}  // namespace
}  // namespace guestio::mem
