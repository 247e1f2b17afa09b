// SPDX-License-Identifier: MIT
#include "guestio/disk/file/shortage.h"

#include <gtest/gtest.h>

#include <vector>

namespace guestio::disk {
namespace {

using std::chrono::milliseconds;
using Pauses = std::vector<milliseconds>;

const ShortageRetry::Clock::time_point kNow{std::chrono::hours(1)};

/// The pauses before further attempts of the ring.
Pauses pauses_for_the_ring(ShortageRetry& retry, ShortageRetry::Clock::time_point now = kNow) {
  Pauses pauses;
  while (retry.note(now) && !retry.is_call()) pauses.push_back(retry.pause());
  return pauses;
}

TEST(ShortageRetry, TriesTheRingAgainAfterPausesThatDouble) {
  Shortages shortages;
  ShortageRetry retry(shortages);
  EXPECT_FALSE(retry.is_call());
  const Pauses expected = {milliseconds(1), milliseconds(2), milliseconds(4)};
  EXPECT_EQ(pauses_for_the_ring(retry), expected);
  EXPECT_TRUE(retry.is_call());
  EXPECT_EQ(retry.pause(), milliseconds(0)) << "the call is for want of something else, if at all";
}

TEST(ShortageRetry, AShortageThatLastsCostsTheNextOnesNoPause) {
  Shortages shortages;
  ShortageRetry first(shortages);
  (void)pauses_for_the_ring(first);
  ShortageRetry second(shortages);
  EXPECT_FALSE(second.is_call()) << "the ring may be able to do this one";
  EXPECT_EQ(pauses_for_the_ring(second, kNow + milliseconds(999)), Pauses());
  EXPECT_TRUE(second.is_call());
  ShortageRetry later(shortages);
  EXPECT_EQ(pauses_for_the_ring(later, kNow + milliseconds(1000)).size(), 3U);
}

TEST(ShortageRetry, AShortageThatPassesLeavesNothingBehind) {
  Shortages shortages;
  ShortageRetry first(shortages);
  ASSERT_TRUE(first.note(kNow));
  ShortageRetry second(shortages);
  ASSERT_TRUE(second.note(kNow));
  EXPECT_FALSE(second.is_call());
}

TEST(ShortageRetry, CallsThatMeetOneTooComeToAnEndAfterHalfAMinute) {
  Shortages shortages;
  ShortageRetry retry(shortages);
  (void)pauses_for_the_ring(retry);
  milliseconds waited{0};
  std::uint32_t calls = 1;
  while (retry.note(kNow)) {
    EXPECT_TRUE(retry.is_call());
    EXPECT_GT(retry.pause(), milliseconds(0)) << "nothing spins";
    EXPECT_LE(retry.pause(), ShortageRetry::kLongestPause);
    waited += retry.pause();
    ++calls;
  }
  EXPECT_EQ(calls, ShortageRetry::kCalls);
  EXPECT_GT(waited, std::chrono::seconds(25));
  EXPECT_LT(waited, std::chrono::seconds(40));
}

TEST(ShortageRetry, EveryShortageThatWasMetCounts) {
  Shortages shortages;
  ShortageRetry first(shortages);
  ShortageRetry second(shortages);
  ASSERT_TRUE(first.note(kNow));
  ASSERT_TRUE(first.note(kNow));
  ASSERT_TRUE(second.note(kNow));
  EXPECT_EQ(shortages.met.value(), 3U);
}

}  // namespace
}  // namespace guestio::disk
