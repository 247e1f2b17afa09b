// SPDX-License-Identifier: MIT
#include "guestio/mem/paged_ranges.h"

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

template <typename Range>
std::vector<AddressRange> runs_of(const Range& range) {
  std::vector<AddressRange> runs;
  EXPECT_TRUE(for_each_run(range, [&](const AddressRange& run) -> Result<> {
    runs.push_back(run);
    return {};
  }));
  return runs;
}

constexpr std::array kFirst{Gpn(7), Gpn(8), Gpn(3)};
constexpr std::array kSecond{Gpn(20)};

/// 0x1810 bytes in pages 7, 8 and 3, then nothing, then 0x20 bytes in page 20.
class PagedRangesTest : public testing::Test {
 protected:
  std::array<PagedRange, 4> pieces_{PagedRange(), *PagedRange::from_pages(0x800, 0x1810, kFirst),
                                    PagedRange(), *PagedRange::from_pages(0x40, 0x20, kSecond)};
  PagedRanges ranges_ = *PagedRanges::from_ranges(pieces_);
};

TEST_F(PagedRangesTest, IsOneBuffer) {
  EXPECT_EQ(ranges_.length(), 0x1830u);
  EXPECT_THAT(runs_of(ranges_), ElementsAre(test::range(0x7800, 0x1800), test::range(0x3000, 0x10),
                                            test::range(0x14040, 0x20)));
}

TEST_F(PagedRangesTest, IterationYieldsClippedNonEmptyRanges) {
  const auto part = ranges_.subrange(0x1000, 0x820);
  std::vector<std::uint64_t> lengths;
  for (const PagedRange piece : part) lengths.push_back(piece.length());
  EXPECT_THAT(lengths, ElementsAre(0x810, 0x10));
}

TEST_F(PagedRangesTest, BoundariesMayFallInsideARange) {
  PagedRanges rest = ranges_;
  rest.skip(0x1808);
  rest.truncate(0x10);
  EXPECT_THAT(runs_of(rest), ElementsAre(test::range(0x3008, 8), test::range(0x14040, 8)));
  rest.skip(9);
  EXPECT_THAT(runs_of(rest), ElementsAre(test::range(0x14041, 7)));
}

TEST_F(PagedRangesTest, BoundariesMayFallBetweenRanges) {
  const auto [front, back] = ranges_.split(0x1810);
  EXPECT_THAT(runs_of(front), ElementsAre(test::range(0x7800, 0x1800), test::range(0x3000, 0x10)));
  EXPECT_THAT(runs_of(back), ElementsAre(test::range(0x14040, 0x20)));
}

TEST_F(PagedRangesTest, ZeroAndTheWholeLengthAreValid) {
  EXPECT_THAT(runs_of(ranges_.subrange(0x1830, 0)), IsEmpty());
  EXPECT_EQ(ranges_.subrange(0, 0x1830).length(), 0x1830u);
  PagedRanges rest = ranges_;
  rest.skip(0x1830);
  EXPECT_TRUE(rest.is_empty());
  rest.truncate(0);
  EXPECT_TRUE(rest.try_skip(0));
}

TEST_F(PagedRangesTest, CheckedFormsRejectBytesOutside) {
  EXPECT_EQ(ranges_.try_subrange(0x1000, 0x831).error(),
            Error::make(ErrorKind::kOutOfRange, "", 0x831, 0x830));
  EXPECT_FALSE(ranges_.try_subrange(kTop, kTop));
  EXPECT_FALSE(ranges_.try_skip(0x1831));
  EXPECT_FALSE(ranges_.try_truncate(0x1831));
  EXPECT_FALSE(ranges_.try_split(0x1831));
  EXPECT_EQ(ranges_.length(), 0x1830u);
  PagedRanges rest = ranges_;
  rest.truncate(0x10);
  EXPECT_FALSE(rest.try_skip(0x11)) << "truncated bytes do not return";
}

TEST_F(PagedRangesTest, ContractFormsStopTheProcess) {
  EXPECT_DEATH((void)ranges_.subrange(0, 0x1831), "a subrange inside the window");
  EXPECT_DEATH(ranges_.skip(0x1831), "to skip bytes inside the window");
}

TEST_F(PagedRangesTest, AnInvalidPageEndsTheIteration) {
  const std::array bad{Gpn(1), Gpn(kTop)};
  pieces_[2] = PagedRange::from_whole_pages(bad);
  const PagedRanges ranges = *PagedRanges::from_ranges(pieces_);
  int runs = 0;
  const auto walked = for_each_run(ranges, [&](const AddressRange&) -> Result<> {
    ++runs;
    return {};
  });
  EXPECT_EQ(walked.error(), Error::make(ErrorKind::kInvalidGpn, "", kTop));
  EXPECT_EQ(runs, 3);
}

TEST(AddressRanges, RepresentsADescriptorChain) {
  const std::array chain{test::range(0x100, 0x10), test::range(0x9000, 0), test::range(0x80, 3)};
  const AddressRanges ranges = *AddressRanges::from_ranges(chain);
  EXPECT_EQ(ranges.length(), 0x13u);
  EXPECT_THAT(runs_of(ranges.subrange(0xf, 3)),
              ElementsAre(test::range(0x10f, 1), test::range(0x80, 2)));
}

TEST(AddressRanges, RejectsOverflowingLengths) {
  const std::array chain{test::range(0, kTop), test::range(0, 2)};
  EXPECT_EQ(AddressRanges::from_ranges(chain).error().kind, ErrorKind::kTooLarge);
}

TEST(AddressRanges, ACopyOfAnEmptyListIsEmpty) {
  EXPECT_TRUE(AddressRanges::from_ranges({})->is_empty());
  EXPECT_THAT(runs_of(AddressRanges()), IsEmpty());
}

TEST(ForEachRun, StopsAtTheFirstErrorOfTheVisitor) {
  const std::array chain{test::range(0x100, 1), test::range(0x9000, 1), test::range(0x80, 3)};
  int visits = 0;
  const auto walked =
      for_each_run(*AddressRanges::from_ranges(chain), [&](const AddressRange&) -> Result<> {
        if (++visits == 2) return fail(ErrorKind::kCancelled, "walk");
        return {};
      });
  EXPECT_EQ(walked.error().kind, ErrorKind::kCancelled);
  EXPECT_EQ(visits, 2);
}

}  // namespace
}  // namespace guestio::mem
