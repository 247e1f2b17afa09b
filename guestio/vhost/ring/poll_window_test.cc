// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/poll_window.h"

#include <gtest/gtest.h>

namespace guestio::vhost {
namespace {

using std::chrono::microseconds;
using Kind = PollPolicy::Kind;
constexpr auto kMaximum = microseconds(32);
constexpr PollWindow::Duration kNone{0};

/// Pauses of which each look ends as `is_hit` says. Returns how many looks there were.
int quiesce(PollWindow& window, int times, bool is_hit) {
  int looks = 0;
  for (int i = 0; i < times; ++i) {
    if (window.next() == kNone) continue;
    ++looks;
    window.note(is_hit);
  }
  return looks;
}

TEST(PollWindow, LooksEachTimeOnceThatPays) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  (void)quiesce(window, 16 * 8, true);
  EXPECT_EQ(quiesce(window, 100, true), 100);
  EXPECT_EQ(window.next(), kMaximum);
}

TEST(PollWindow, DoesNotLookBeforeItHasSeenThatThisPays) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  EXPECT_EQ(quiesce(window, 15, true), 0);
}

TEST(PollWindow, GivesUpLookingInVainAndTriesAgainNowAndThen) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  (void)quiesce(window, 1000, true);
  EXPECT_LE(quiesce(window, 8, false), 8);
  EXPECT_EQ(quiesce(window, 1600, false), 100) << "one look in sixteen pauses";
}

TEST(PollWindow, OneLookInVainDoesNotEndIt) {
  PollWindow window({.kind = Kind::kAdaptive, .max_window = kMaximum});
  (void)quiesce(window, 1000, true);
  window.note(false);
  EXPECT_EQ(window.next(), kMaximum);
}

TEST(PollWindow, AFixedOneDoesNotLearn) {
  PollWindow window({.kind = Kind::kFixed, .max_window = kMaximum});
  EXPECT_EQ(quiesce(window, 100, false), 100);
  EXPECT_EQ(window.next(), kMaximum);
  PollWindow never({.kind = Kind::kFixed, .max_window = kNone});
  EXPECT_EQ(quiesce(never, 100, true), 0);
}

TEST(PollPolicy, LooksShorterWhileTheDiskWorks) {
  const PollPolicy policy{.kind = Kind::kAdaptive, .max_window = kMaximum};
  EXPECT_EQ(policy.while_disk_works().max_window, kMaximum / 4);
  EXPECT_EQ(policy.while_disk_works().kind, Kind::kAdaptive);
}

}  // namespace
}  // namespace guestio::vhost
