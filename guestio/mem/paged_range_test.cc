// SPDX-License-Identifier: MIT
#include "guestio/mem/paged_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::kTop;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kLastGpn = (std::uint64_t{1} << 52) - 1;
constexpr std::array kGpns{Gpn(7), Gpn(8), Gpn(3), Gpn(5)};

PagedRange window(std::uint64_t offset, std::uint64_t length, std::span<const Gpn> gpns = kGpns) {
  return *PagedRange::from_pages(offset, length, gpns);
}

std::vector<AddressRange> runs_of(const PagedRange& range) {
  std::vector<AddressRange> runs;
  for (const auto& run : range.runs()) {
    EXPECT_TRUE(run.has_value());
    if (run) runs.push_back(*run);
  }
  return runs;
}

TEST(PagedRange, IsAWindowIntoItsPages) {
  const PagedRange range = window(100, 0x1200);
  EXPECT_EQ(range.length(), 0x1200u);
  EXPECT_EQ(range.offset(), 100u);
  EXPECT_THAT(range.gpns(), ElementsAre(Gpn(7), Gpn(8)));
  EXPECT_THAT(runs_of(range), ElementsAre(test::range(0x7064, 0x1200)));
}

TEST(PagedRange, TheOffsetMayLiePastTheFirstPage) {
  const PagedRange range = window(0x2010, 0x1000);
  EXPECT_EQ(range.offset(), 0x10u);
  EXPECT_THAT(range.gpns(), ElementsAre(Gpn(3), Gpn(5)));
}

TEST(PagedRange, HoldsOnlyItsPages) {
  EXPECT_THAT(window(0, 0x1000).gpns(), ElementsAre(Gpn(7)));
  EXPECT_THAT(window(0, 0x1001).gpns(), ElementsAre(Gpn(7), Gpn(8)));
  EXPECT_THAT(window(0xfff, 2).gpns(), ElementsAre(Gpn(7), Gpn(8)));
  EXPECT_THAT(window(0x1000, 1).gpns(), ElementsAre(Gpn(8)));
  EXPECT_THAT(window(0x123, 0).gpns(), IsEmpty());
  EXPECT_THAT(window(0x4000, 0).gpns(), IsEmpty());
  EXPECT_EQ(window(0x10, 5).single_gpn(), Gpn(7));
  EXPECT_EQ(window(0xfff, 2).single_gpn(), std::nullopt);
  EXPECT_EQ(window(0, 0).single_gpn(), std::nullopt);
}

TEST(PagedRange, ConstructionFailsBeyondThePages) {
  EXPECT_TRUE(PagedRange::from_pages(0, 0x4000, kGpns));
  EXPECT_TRUE(PagedRange::from_pages(0x4000, 0, kGpns));
  EXPECT_EQ(PagedRange::from_pages(1, 0x4000, kGpns).error(),
            Error::make(ErrorKind::kOutOfRange, "", 0x4000, 0x3fff));
  EXPECT_FALSE(PagedRange::from_pages(0x4001, 0, kGpns));
  EXPECT_FALSE(PagedRange::from_pages(kTop, 2, kGpns));
  EXPECT_FALSE(PagedRange::from_pages(2, kTop, kGpns));
  EXPECT_TRUE(PagedRange::from_pages(0, 0, {}));
  EXPECT_FALSE(PagedRange::from_pages(0, 1, {}));
}

TEST(PagedRange, EveryOperationOnTheEmptyWindowIsValid) {
  PagedRange empty;
  EXPECT_TRUE(empty.is_empty());
  EXPECT_THAT(empty.gpns(), IsEmpty());
  EXPECT_FALSE(empty.pop_front().has_value());
  EXPECT_THAT(runs_of(empty), IsEmpty());
  EXPECT_TRUE(empty.try_skip(0));
  EXPECT_TRUE(empty.try_subrange(0, 0));
  EXPECT_FALSE(empty.try_subrange(0, 1));
}

TEST(PagedRange, RunsMergeConsecutivePagesAndAreClippedToTheWindow) {
  EXPECT_THAT(runs_of(window(0x800, 0x3000)),
              ElementsAre(test::range(0x7800, 0x1800), test::range(0x3000, 0x1000),
                          test::range(0x5000, 0x800)));
  EXPECT_THAT(runs_of(window(0x10, 0x20)), ElementsAre(test::range(0x7010, 0x20)));
}

TEST(PagedRange, LongRunsEndAtTheFirstGap) {
  for (std::size_t broken = 1; broken < 40; ++broken) {
    std::vector<Gpn> gpns;
    for (std::size_t i = 0; i < 40; ++i) gpns.push_back(Gpn(100 + i + (i >= broken ? 1 : 0)));
    EXPECT_THAT(runs_of(PagedRange::from_whole_pages(gpns)),
                ElementsAre(test::range(std::uint64_t{100} * 0x1000, broken * 0x1000),
                            test::range((101 + broken) * 0x1000, (40 - broken) * 0x1000)));
  }
}

TEST(PagedRange, PopFrontRemovesTheFirstRun) {
  PagedRange range = window(0x10, 0x2020);
  EXPECT_EQ(*range.pop_front(), test::range(0x7010, 0x1ff0));
  EXPECT_EQ(range.length(), 0x30u);
  EXPECT_EQ(range.offset(), 0u);
  EXPECT_THAT(range.gpns(), ElementsAre(Gpn(3)));
  EXPECT_EQ(*range.pop_front(), test::range(0x3000, 0x30));
  EXPECT_FALSE(range.pop_front().has_value());
}

TEST(PagedRange, ReturnsSubrangesAndSplits) {
  const PagedRange range = window(0x800, 0x3000);
  EXPECT_THAT(runs_of(range.subrange(0x7ff, 0x1002)),
              ElementsAre(test::range(0x7fff, 0x1001), test::range(0x3000, 1)));
  const auto [front, back] = range.split(0x1800);
  EXPECT_THAT(runs_of(front), ElementsAre(test::range(0x7800, 0x1800)));
  EXPECT_EQ(back.offset(), 0u);
  EXPECT_THAT(runs_of(back), ElementsAre(test::range(0x3000, 0x1000), test::range(0x5000, 0x800)));
  PagedRange rest = range;
  rest.skip(0x2800);
  rest.truncate(0x10);
  EXPECT_THAT(runs_of(rest), ElementsAre(test::range(0x5000, 0x10)));
}

TEST(PagedRange, ZeroAndTheWholeLengthAreValid) {
  const PagedRange range = window(0x800, 0x3000);
  EXPECT_EQ(range.subrange(0, 0x3000).length(), 0x3000u);
  EXPECT_TRUE(range.subrange(0x3000, 0).is_empty());
  EXPECT_TRUE(range.split(0).front.is_empty());
  EXPECT_TRUE(range.split(0x3000).back.is_empty());
  PagedRange rest = range;
  rest.skip(0x3000);
  EXPECT_TRUE(rest.is_empty());
  rest = window(0, 0x4000);
  rest.skip(0x4000);
  rest.truncate(0);
  EXPECT_THAT(runs_of(rest), IsEmpty());
}

TEST(PagedRange, CheckedFormsRejectBytesOutside) {
  PagedRange range = window(0x800, 0x1000);
  EXPECT_EQ(range.try_subrange(0x800, 0x801).error(),
            Error::make(ErrorKind::kOutOfRange, "", 0x801, 0x800));
  EXPECT_FALSE(range.try_subrange(kTop, 2));
  EXPECT_FALSE(range.try_subrange(0x1001, 0));
  EXPECT_FALSE(range.try_skip(0x1001));
  EXPECT_FALSE(range.try_truncate(0x1001));
  EXPECT_FALSE(range.try_split(0x1001));
  EXPECT_EQ(range.length(), 0x1000u) << "a refused change changes nothing";
  EXPECT_EQ(range.offset(), 0x800u);
}

TEST(PagedRangeDeathTest, ContractFormsStopTheProcess) {
  PagedRange range = window(0x800, 0x1000);
  EXPECT_DEATH((void)range.subrange(0, 0x1001), "a subrange inside the window");
  EXPECT_DEATH(range.skip(0x1001), "to skip bytes inside the window");
  EXPECT_DEATH(range.truncate(0x1001), "to truncate inside the window");
  EXPECT_DEATH((void)range.split(0x1001), "to split inside the window");
}

Error first_error(const PagedRange& range) {
  for (const auto& run : range.runs()) {
    if (!run) return run.error();
  }
  return {};
}

TEST(PagedRange, Fault08ImpossiblePageNumbersAreInvalidGpn) {
  for (const std::uint64_t bad : {kLastGpn + 1, kTop, kTop - 1, std::uint64_t{1} << 63}) {
    const std::array gpns{Gpn(bad)};
    EXPECT_EQ(first_error(window(0, 1, gpns)), Error::make(ErrorKind::kInvalidGpn, "", bad));
  }
}

TEST(PagedRange, Fault08TheLastPageWithAnAddressIsUsable) {
  const std::array gpns{Gpn(kLastGpn - 1), Gpn(kLastGpn)};
  EXPECT_THAT(runs_of(window(0, 0x2000, gpns)), ElementsAre(test::range(kTop - 0x1fff, 0x2000)));
}

TEST(PagedRange, Fault08AnInvalidPageInsideARunIsDetected) {
  const std::array gpns{Gpn(kLastGpn), Gpn(kLastGpn + 1), Gpn(kLastGpn + 2)};
  PagedRange range = window(0x10, 0x2000, gpns);
  EXPECT_EQ(*range.pop_front(), test::range(kTop - 0xfef, 0xff0));
  EXPECT_EQ(range.pop_front()->error(), Error::make(ErrorKind::kInvalidGpn, "", kLastGpn + 1));
  const std::array wrapping{Gpn(kTop), Gpn(0)};
  EXPECT_EQ(first_error(window(0, 0x2000, wrapping)).kind, ErrorKind::kInvalidGpn);
}

TEST(PagedRange, Fault09IterationEndsAfterTheError) {
  const std::array gpns{Gpn(1), Gpn(kTop), Gpn(2)};
  std::vector<bool> outcomes;
  for (const auto& run : window(0, 0x3000, gpns).runs()) outcomes.push_back(run.has_value());
  EXPECT_THAT(outcomes, ElementsAre(true, false));
}

}  // namespace
}  // namespace guestio::mem
