// SPDX-License-Identifier: MIT
#include "guestio/vhost/poll_window.h"

#include <gtest/gtest.h>

namespace guestio::vhost {
namespace {

using std::chrono::microseconds;
using Kind = PollPolicy::Kind;
constexpr auto kMost = microseconds(32);
constexpr PollWindow::Duration kNone{0};

/// Pauses of which each look ends as `has_found_work` says. Returns how many looks there were.
int pause(PollWindow& window, int times, bool has_found_work) {
  int looks = 0;
  for (int i = 0; i < times; ++i) {
    if (window.next() == kNone) continue;
    ++looks;
    window.note(has_found_work);
  }
  return looks;
}

TEST(PollWindow, LooksEachTimeOnceThatPays) {
  PollWindow window({.kind = Kind::kAdaptive, .most = kMost});
  (void)pause(window, 16 * 8, true);
  EXPECT_EQ(pause(window, 100, true), 100);
  EXPECT_EQ(window.next(), kMost);
}

TEST(PollWindow, DoesNotLookBeforeItHasSeenThatThisPays) {
  PollWindow window({.kind = Kind::kAdaptive, .most = kMost});
  EXPECT_EQ(pause(window, 15, true), 0);
}

TEST(PollWindow, GivesUpLookingInVainAndTriesAgainNowAndThen) {
  PollWindow window({.kind = Kind::kAdaptive, .most = kMost});
  (void)pause(window, 1000, true);
  EXPECT_LE(pause(window, 8, false), 8);
  EXPECT_EQ(pause(window, 1600, false), 100) << "one look in sixteen pauses";
}

TEST(PollWindow, OneLookInVainDoesNotEndIt) {
  PollWindow window({.kind = Kind::kAdaptive, .most = kMost});
  (void)pause(window, 1000, true);
  window.note(false);
  EXPECT_EQ(window.next(), kMost);
}

TEST(PollWindow, AFixedOneDoesNotLearn) {
  PollWindow window({.kind = Kind::kFixed, .most = kMost});
  EXPECT_EQ(pause(window, 100, false), 100);
  EXPECT_EQ(window.next(), kMost);
  PollWindow never({.kind = Kind::kFixed, .most = kNone});
  EXPECT_EQ(pause(never, 100, true), 0);
}

TEST(PollPolicy, LooksShorterWhileTheDiskWorks) {
  const PollPolicy policy{.kind = Kind::kAdaptive, .most = kMost};
  EXPECT_EQ(policy.while_disk_works().most, kMost / 4);
  EXPECT_EQ(policy.while_disk_works().kind, Kind::kAdaptive);
}

}  // namespace
}  // namespace guestio::vhost
