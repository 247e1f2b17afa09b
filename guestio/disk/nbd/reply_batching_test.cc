// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/reply_batching.h"

#include <gtest/gtest.h>

namespace guestio::disk {
namespace {

using std::chrono::microseconds;
using Duration = ReplyBatching::Duration;

constexpr Duration kNone{0};

double in_us(Duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

class ReplyBatchingTest : public ::testing::Test {
 protected:
  /// Receives `replies` after `since_last`, with as many more in flight.
  Duration receive(Duration since_last, std::uint64_t replies, std::size_t in_flight,
                   std::size_t max_gathered = 15) {
    now_ += since_last;
    return batching_.next(now_, replies, in_flight, max_gathered);
  }
  /// Many receives of one reply each. Returns the last pause.
  Duration receive_often(Duration interval, std::size_t in_flight, std::size_t max_gathered = 15) {
    Duration pause{};
    for (int i = 0; i < 1000; ++i) pause = receive(interval, 1, in_flight, max_gathered);
    return pause;
  }

  ReplyBatching batching_;
  ReplyBatching::Clock::time_point now_{};
};

TEST_F(ReplyBatchingTest, AQuarterOfManyRequestsGathers) {
  EXPECT_NEAR(in_us(receive_often(microseconds(8), 32)), 64, 1);
}

TEST_F(ReplyBatchingTest, FewRequestsAreNotDelayed) {
  EXPECT_EQ(receive_often(microseconds(8), 1), kNone);
  EXPECT_EQ(receive_often(microseconds(8), 7), kNone);
  EXPECT_GT(receive_often(microseconds(8), 8), kNone);
}

TEST_F(ReplyBatchingTest, ThePauseIsBounded) {
  EXPECT_NEAR(in_us(receive_often(microseconds(30), 128)), 100, 1);
}

TEST_F(ReplyBatchingTest, RepliesThatAreFarApartAreNotWaitedFor) {
  EXPECT_EQ(receive_often(microseconds(60), 128), kNone);
}

TEST_F(ReplyBatchingTest, RepliesThatAreCloseTogetherAreNotWaitedFor) {
  EXPECT_EQ(receive_often(microseconds(1), 32), kNone);
}

TEST_F(ReplyBatchingTest, LargeRepliesFillTheSocketEarlier) {
  EXPECT_NEAR(in_us(receive_often(microseconds(8), 32, 4)), 32, 1);
  EXPECT_EQ(receive_often(microseconds(8), 32, 1), kNone);
}

TEST_F(ReplyBatchingTest, TheTimeWithoutRequestsDoesNotCount) {
  EXPECT_NEAR(in_us(receive_often(microseconds(8), 32)), 64, 1);
  (void)receive(microseconds(8), 1, 0);
  EXPECT_NEAR(in_us(receive(std::chrono::seconds(10), 1, 32)), 64, 1);
}

TEST_F(ReplyBatchingTest, AServerThatWaitsForRequestsIsNotSlower) {
  EXPECT_NEAR(in_us(receive_often(microseconds(8), 32)), 64, 1);
  // Half of the time without work.
  for (int i = 0; i < 8; ++i) (void)receive(microseconds(128), 8, 32);
  EXPECT_LT(receive(microseconds(128), 8, 32), microseconds(80));
  EXPECT_NEAR(in_us(receive_often(microseconds(8), 32)), 64, 1);
}

}  // namespace
}  // namespace guestio::disk
