// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/poll_window.h"

#include <gtest/gtest.h>

namespace guestio::vhost {
namespace {

using std::chrono::microseconds;
using Kind = PollPolicy::Kind;
constexpr auto kMaximum = microseconds(32);
constexpr PollWindow::Duration kNone{0};

/// Sleeps whose poll windows all end as `is_hit`. Returns the number of windows.
int sleeps(PollWindow& window, int times, bool is_hit) {
  int polls = 0;
  for (int i = 0; i < times; ++i) {
    if (window.next() == kNone) continue;
    ++polls;
    window.note(is_hit);
  }
  return polls;
}

TEST(PollWindow, PollsBeforeEachSleepOnceThatPays) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  (void)sleeps(window, 16 * 8, true);
  EXPECT_EQ(sleeps(window, 100, true), 100);
  EXPECT_EQ(window.next(), kMaximum);
}

TEST(PollWindow, DoesNotPollBeforeAHit) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  EXPECT_EQ(sleeps(window, 15, true), 0);
}

TEST(PollWindow, StopsAfterEmptyPollsAndTriesEverySixteenthSleep) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  (void)sleeps(window, 1000, true);
  EXPECT_LE(sleeps(window, 8, false), 8);
  EXPECT_EQ(sleeps(window, 1600, false), 100) << "one window in sixteen sleeps";
}

TEST(PollWindow, OneEmptyPollDoesNotEndPolling) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  (void)sleeps(window, 1000, true);
  window.note(false);
  EXPECT_EQ(window.next(), kMaximum);
}

TEST(PollWindow, AFixedWindowDoesNotAdapt) {
  PollWindow window({.kind = Kind::kFixed, .max_window = kMaximum});
  EXPECT_EQ(sleeps(window, 100, false), 100);
  EXPECT_EQ(window.next(), kMaximum);
  PollWindow never({.kind = Kind::kFixed, .max_window = kNone});
  EXPECT_EQ(sleeps(never, 100, true), 0);
}

TEST(PollPolicy, PollsForAShorterTimeWhileTheDiskWorks) {
  const PollPolicy policy{.kind = Kind::kAdaptive, .max_window = kMaximum};
  EXPECT_EQ(policy.while_disk_works().max_window, kMaximum / 4);
  EXPECT_EQ(policy.while_disk_works().kind, Kind::kAdaptive);
}

}  // namespace
}  // namespace guestio::vhost
