// SPDX-License-Identifier: MIT
#include "apps/guestio-load/histogram.h"

#include <gtest/gtest.h>

#include <limits>

namespace guestio::load {
namespace {

constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();

TEST(Histogram, AnEmptyOneIsAllZeroes) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.min(), 0u);
  EXPECT_EQ(histogram.max(), 0u);
  EXPECT_EQ(histogram.mean(), 0);
  EXPECT_EQ(histogram.standard_deviation(), 0);
  EXPECT_EQ(histogram.percentile(99), 0u);
}

TEST(Histogram, SmallValuesAreExact) {
  Histogram histogram;
  for (std::uint64_t value = 1; value <= 100; ++value) histogram.record(value);
  EXPECT_EQ(histogram.percentile(50), 50u);
  EXPECT_EQ(histogram.percentile(99), 99u);
  EXPECT_EQ(histogram.percentile(99.9), 100u);
  EXPECT_EQ(histogram.percentile(100), 100u);
  EXPECT_EQ(histogram.percentile(0), 1u);
  EXPECT_DOUBLE_EQ(histogram.mean(), 50.5);
  EXPECT_NEAR(histogram.standard_deviation(), 28.866, 0.001);
}

TEST(Histogram, TheErrorIsBelowOnePercent) {
  for (std::uint64_t value = 1; value < kMax / 3; value = value * 3 + 1) {
    Histogram histogram;
    histogram.record(value);
    histogram.record(kMax);
    const std::uint64_t answer = histogram.percentile(50);
    EXPECT_GE(answer, value);
    EXPECT_LE(static_cast<double>(answer), static_cast<double>(value) * 1.01) << value;
  }
}

TEST(Histogram, CoversTheWholeRange) {
  Histogram histogram;
  histogram.record(0);
  histogram.record(kMax);
  EXPECT_EQ(histogram.min(), 0u);
  EXPECT_EQ(histogram.percentile(100), kMax);
}

TEST(Histogram, APercentileIsAtMostTheMaximum) {
  Histogram histogram;
  histogram.record(1'000'003);
  EXPECT_EQ(histogram.percentile(99.9), 1'000'003u);
}

TEST(Histogram, MergingEqualsRecordingInOne) {
  Histogram first;
  Histogram second;
  Histogram both;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    (i % 3 == 0 ? first : second).record(i * i);
    both.record(i * i);
  }
  first.merge(second);
  first.merge(Histogram());
  EXPECT_EQ(first.count(), both.count());
  EXPECT_EQ(first.min(), both.min());
  EXPECT_EQ(first.max(), both.max());
  EXPECT_EQ(first.percentile(90), both.percentile(90));
  EXPECT_DOUBLE_EQ(first.mean(), both.mean());
}

}  // namespace
}  // namespace guestio::load
