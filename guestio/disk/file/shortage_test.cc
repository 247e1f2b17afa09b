// SPDX-License-Identifier: MIT
#include "guestio/disk/file/shortage.h"

#include <gtest/gtest.h>

#include <vector>

namespace guestio::disk {
namespace {

using std::chrono::milliseconds;
using Pauses = std::vector<milliseconds>;

const ShortageRetry::Clock::time_point kNow{std::chrono::hours(1)};

/// The pauses before retries of the ring.
Pauses ring_pauses(ShortageRetry& retry, ShortageRetry::Clock::time_point now = kNow) {
  Pauses pauses;
  while (retry.count_shortage(now) && !retry.is_call()) pauses.push_back(retry.pause());
  return pauses;
}

TEST(ShortageRetry, RetriesTheRingAfterDoublingPauses) {
  Shortages shortages;
  ShortageRetry retry(shortages);
  EXPECT_FALSE(retry.is_call());
  const Pauses expected = {milliseconds(1), milliseconds(2), milliseconds(4)};
  EXPECT_EQ(ring_pauses(retry), expected);
  EXPECT_TRUE(retry.is_call());
  EXPECT_EQ(retry.pause(), milliseconds(0)) << "the call needs other resources";
}

TEST(ShortageRetry, ALastingShortageCostsLaterOperationsNoPause) {
  Shortages shortages;
  ShortageRetry first(shortages);
  (void)ring_pauses(first);
  ShortageRetry second(shortages);
  EXPECT_FALSE(second.is_call()) << "the ring may serve this one";
  EXPECT_EQ(ring_pauses(second, kNow + milliseconds(999)), Pauses());
  EXPECT_TRUE(second.is_call());
  ShortageRetry later(shortages);
  EXPECT_EQ(ring_pauses(later, kNow + milliseconds(1000)).size(), 3U);
}

TEST(ShortageRetry, AShortShortageHasNoEffectOnLaterOperations) {
  Shortages shortages;
  ShortageRetry first(shortages);
  ASSERT_TRUE(first.count_shortage(kNow));
  ShortageRetry second(shortages);
  ASSERT_TRUE(second.count_shortage(kNow));
  EXPECT_FALSE(second.is_call());
}

TEST(ShortageRetry, CallsEndAfterHalfAMinuteOfShortages) {
  Shortages shortages;
  ShortageRetry retry(shortages);
  (void)ring_pauses(retry);
  milliseconds waited{0};
  std::uint32_t calls = 1;
  while (retry.count_shortage(kNow)) {
    EXPECT_TRUE(retry.is_call());
    EXPECT_GT(retry.pause(), milliseconds(0)) << "no busy loop";
    EXPECT_LE(retry.pause(), ShortageRetry::kLongestPause);
    waited += retry.pause();
    ++calls;
  }
  EXPECT_EQ(calls, ShortageRetry::kCalls);
  EXPECT_GT(waited, std::chrono::seconds(25));
  EXPECT_LT(waited, std::chrono::seconds(40));
}

TEST(ShortageRetry, EveryShortageCounts) {
  Shortages shortages;
  ShortageRetry first(shortages);
  ShortageRetry second(shortages);
  ASSERT_TRUE(first.count_shortage(kNow));
  ASSERT_TRUE(first.count_shortage(kNow));
  ASSERT_TRUE(second.count_shortage(kNow));
  EXPECT_EQ(shortages.met.value(), 3U);
}

}  // namespace
}  // namespace guestio::disk
