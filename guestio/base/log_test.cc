// SPDX-License-Identifier: MIT
#include "guestio/base/log.h"

#include <gtest/gtest.h>

namespace guestio::log {
namespace {

using std::chrono::seconds;

TEST(RateLimit, LetsABurstThroughThenCountsWhatItDrops) {
  RateLimit limit(2, seconds(10));
  const RateLimit::Clock::time_point start{seconds(100)};
  EXPECT_TRUE(limit.ask(start).allowed);
  EXPECT_TRUE(limit.ask(start).allowed);
  EXPECT_FALSE(limit.ask(start).allowed);
  EXPECT_FALSE(limit.ask(start + seconds(9)).allowed);
  const auto verdict = limit.ask(start + seconds(10));
  EXPECT_TRUE(verdict.allowed);
  EXPECT_EQ(verdict.suppressed, 2u);
}

TEST(RateLimit, NeverSavesUpMoreThanItsBurst) {
  RateLimit limit(2, seconds(1));
  const RateLimit::Clock::time_point start{seconds(100)};
  EXPECT_TRUE(limit.ask(start).allowed);
  const auto later = start + seconds(1000);
  EXPECT_TRUE(limit.ask(later).allowed);
  EXPECT_TRUE(limit.ask(later).allowed);
  EXPECT_FALSE(limit.ask(later).allowed);
}

TEST(Log, DropsWhatIsBelowItsLevel) {
  set_level(Level::kWarning);
  EXPECT_FALSE(enabled(Level::kInfo));
  EXPECT_TRUE(enabled(Level::kError));
  set_level(Level::kInfo);
  EXPECT_TRUE(enabled(Level::kInfo));
}

TEST(Log, WritesOneLineToStandardError) {
  testing::internal::CaptureStderr();
  warning("disk {} is gone", 7);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("guestio warning: disk 7 is gone\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace guestio::log
