// SPDX-License-Identifier: MIT
#include "guestio/task/event.h"

#include <gtest/gtest.h>

#include "guestio/task/scope.h"

namespace guestio::task {
namespace {

Task<> wait_and_count(Event& event, int& woken, int& stopped, StopToken token = {}) {
  const WaitOutcome outcome = co_await event.wait(token);
  ++(outcome == WaitOutcome::kWoken ? woken : stopped);
}

class EventTest : public ::testing::Test {
 protected:
  int woken_ = 0;
  int stopped_ = 0;
  StopSource stop_;
  Event event_;
  Scope scope_;
};

TEST_F(EventTest, WakesAllWaiters) {
  scope_.spawn(wait_and_count(event_, woken_, stopped_));
  scope_.spawn(wait_and_count(event_, woken_, stopped_));
  EXPECT_EQ(woken_, 0);
  event_.set();
  EXPECT_EQ(woken_, 2);
}

TEST_F(EventTest, DoesNotSuspendWhenItIsSet) {
  event_.set();
  scope_.spawn(wait_and_count(event_, woken_, stopped_));
  EXPECT_EQ(woken_, 1);
}

TEST_F(EventTest, WaitsAgainAfterAReset) {
  event_.set();
  event_.reset();
  EXPECT_FALSE(event_.is_set());
  scope_.spawn(wait_and_count(event_, woken_, stopped_));
  EXPECT_EQ(woken_, 0);
  event_.set();
  EXPECT_EQ(woken_, 1);
}

TEST_F(EventTest, AWaiterCanBeStopped) {
  scope_.spawn(wait_and_count(event_, woken_, stopped_, stop_.token()));
  stop_.request_stop();
  EXPECT_EQ(stopped_, 1);
  EXPECT_EQ(woken_, 0);
}

TEST_F(EventTest, ASetEventWinsOverAStoppedToken) {
  event_.set();
  stop_.request_stop();
  scope_.spawn(wait_and_count(event_, woken_, stopped_, stop_.token()));
  EXPECT_EQ(woken_, 1);
}

}  // namespace
}  // namespace guestio::task
