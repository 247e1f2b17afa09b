// SPDX-License-Identifier: MIT
#include "guestio/mem/any_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::range;
using testing::ElementsAre;

std::vector<AddressRange> runs(const AnyRange& range) {
  std::vector<AddressRange> result;
  EXPECT_TRUE(for_each_run(range, [&](const AddressRange& run) -> Result<> {
    result.push_back(run);
    return {};
  }));
  return result;
}

TEST(AnyRange, IsEmptyByDefault) {
  const AnyRange any;
  EXPECT_TRUE(any.is_empty());
  EXPECT_TRUE(runs(any).empty());
  EXPECT_TRUE(any.subrange(0, 0).is_empty());
}

TEST(AnyRange, HasTheRunsOfEveryKindOfRange) {
  const std::array gpns{Gpn(2), Gpn(3), Gpn(7)};
  const PagedRange paged = *PagedRange::from_pages(0x10, 0x2010, gpns);
  const std::array extents{range(5, 6), range(0x100, 7)};
  const std::array pieces{paged, paged.subrange(0, 1)};
  EXPECT_THAT(runs(range(5, 6)), ElementsAre(range(5, 6)));
  EXPECT_THAT(runs(paged), ElementsAre(range(0x2010, 0x1ff0), range(0x7000, 0x20)));
  EXPECT_THAT(runs(*AddressRanges::from_ranges(extents)),
              ElementsAre(range(5, 6), range(0x100, 7)));
  EXPECT_THAT(runs(*PagedRanges::from_ranges(pieces)),
              ElementsAre(range(0x2010, 0x1ff0), range(0x7000, 0x20), range(0x2010, 1)));
}

TEST(AnyRange, SubrangesAreThoseOfItsKind) {
  const std::array extents{range(5, 6), range(0x100, 7)};
  const AnyRange any = *AddressRanges::from_ranges(extents);
  EXPECT_THAT(runs(any.subrange(4, 5)), ElementsAre(range(9, 2), range(0x100, 3)));
  EXPECT_TRUE(any.try_subrange(13, 0));
  EXPECT_EQ(any.try_subrange(13, 1).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(any.try_subrange(1, ~0ull).error().kind, ErrorKind::kOutOfRange);
}

}  // namespace
}  // namespace guestio::mem
