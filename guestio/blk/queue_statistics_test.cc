// SPDX-License-Identifier: MIT
#include "guestio/blk/queue_statistics.h"

#include <gtest/gtest.h>

namespace guestio::blk {
namespace {

using std::chrono::nanoseconds;

TEST(LatencyHistogram, APercentileIsAtMostAQuarterBeyondTheValue) {
  for (const std::int64_t ns : {0LL, 1LL, 3LL, 4LL, 7LL, 8LL, 100LL, 4095LL, 4096LL, 1'000'000LL,
                                123'456'789LL, 1LL << 39}) {
    LatencyHistogram histogram;
    histogram.record(nanoseconds(ns));
    EXPECT_GT(histogram.percentile(0.5).count(), ns);
    EXPECT_LE(histogram.percentile(0.5).count(), ns + ns / 4 + 1) << ns;
  }
}

TEST(LatencyHistogram, LatenciesBeyondTheLastStepCountInIt) {
  LatencyHistogram histogram;
  histogram.record(nanoseconds::max());
  histogram.record(nanoseconds(-1));
  EXPECT_EQ(histogram.count(), 2U);
  EXPECT_GT(histogram.percentile(1), nanoseconds(1LL << 39));
}

TEST(LatencyHistogram, APercentileCoversItsShareOfTheRequests) {
  LatencyHistogram histogram;
  for (int i = 0; i < 99; ++i) histogram.record(nanoseconds(1000));
  histogram.record(nanoseconds(1'000'000));
  EXPECT_LT(histogram.percentile(0.99), nanoseconds(1300));
  EXPECT_GT(histogram.percentile(0.999), nanoseconds(1'000'000));
  EXPECT_EQ(LatencyHistogram().percentile(0.5), nanoseconds(0));
}

TEST(LatencyHistogram, HistogramsAddUp) {
  LatencyHistogram all;
  LatencyHistogram other;
  other.record(nanoseconds(5));
  all.add(other);
  all.add(other);
  EXPECT_EQ(all.count(), 2U);
}

TEST(QueueStatistics, QueuesAddUpToADisk) {
  QueueStatistics one;
  ++one.of(RequestKind::kRead).requests;
  one.of(RequestKind::kRead).bytes += 512;
  ++one.of(RequestKind::kFlush).errors;
  QueueStatistics all;
  all.add(one);
  all.add(one);
  EXPECT_EQ(all.requests(), 2U);
  EXPECT_EQ(all.of(RequestKind::kRead).bytes, 1024U);
  EXPECT_EQ(all.of(RequestKind::kFlush).errors, 2U);
}

}  // namespace
}  // namespace guestio::blk
