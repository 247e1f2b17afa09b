// SPDX-License-Identifier: MIT
#include "guestio/uring/mailbox.h"

#include <gmock/gmock.h>

#include <array>
#include <thread>
#include <vector>

#include "guestio/uring/loop.h"

namespace guestio::uring {
namespace {

using ::testing::ElementsAre;

TEST(Mailbox, RunsMessagesInOrder) {
  std::vector<int> order;
  auto mailbox = Mailbox::create();
  ASSERT_TRUE(mailbox);
  mailbox->post([&] { order.push_back(1); });
  mailbox->post([&] { order.push_back(2); });
  EXPECT_TRUE(mailbox->has_messages());
  EXPECT_EQ(mailbox->run_messages(), 2U);
  EXPECT_FALSE(mailbox->has_messages());
  EXPECT_THAT(order, ElementsAre(1, 2));
}

TEST(Mailbox, AMessagePostedByAMessageRunsInTheNextCall) {
  int runs = 0;
  auto mailbox = Mailbox::create();
  ASSERT_TRUE(mailbox);
  mailbox->post([&] { mailbox->post([&] { ++runs; }); });
  EXPECT_EQ(mailbox->run_messages(), 1U);
  EXPECT_EQ(runs, 0);
  EXPECT_EQ(mailbox->run_messages(), 1U);
  EXPECT_EQ(runs, 1);
}

TEST(MailboxDeathTest, DestroyingANonEmptyMailboxIsABug) {
  EXPECT_DEATH(
      {
        auto mailbox = Mailbox::create();
        mailbox->post([] {});
      },
      "every posted function has run");
}

class PostTest : public ::testing::TestWithParam<RingMode> {
 protected:
  void SetUp() override {
    auto loop = Loop::create({.ring = {.mode = GetParam()}});
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
  }
  std::unique_ptr<Loop> loop_;
};

INSTANTIATE_TEST_SUITE_P(Modes, PostTest,
                         ::testing::Values(RingMode::kDeferred, RingMode::kCooperative,
                                           RingMode::kPlain),
                         [](const auto& info) { return to_text(info.param); });

TEST_P(PostTest, PostsKeepTheOrderOfEachThread) {
  constexpr int kThreads = 4;
  constexpr int kPosts = 5'000;
  std::array<int, kThreads> next{};  // loop's thread only
  int out_of_order = 0;
  int left = kThreads * kPosts;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int number = 0; number < kPosts; ++number) {
        loop_->post([&, thread, number] {
          if (next[thread]++ != number) ++out_of_order;
          if (--left == 0) loop_->stop();
        });
      }
    });
  }
  loop_->run();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(left, 0);
  EXPECT_EQ(out_of_order, 0);
  EXPECT_EQ(loop_->statistics().posts, static_cast<std::uint64_t>(kThreads * kPosts));
}

TEST_P(PostTest, AFunctionWakesASleepingLoop) {
  // Ping-pong: each post meets an idle loop.
  constexpr int kRounds = 2'000;
  int rounds = 0;
  std::atomic<int> seen = 0;
  std::thread other([&] {
    for (int round = 1; round <= kRounds; ++round) {
      loop_->post([&] { seen.store(++rounds); });
      while (seen.load() < round) std::this_thread::yield();
    }
    loop_->stop();
  });
  loop_->run();
  other.join();
  EXPECT_EQ(rounds, kRounds);
}

TEST_P(PostTest, StopFromAnotherThreadEndsRun) {
  std::atomic<bool> was_told = false;
  std::thread other([&] {
    was_told = true;
    loop_->stop();
  });
  loop_->run();
  EXPECT_TRUE(was_told);
  other.join();
}

TEST_P(PostTest, FunctionsPostedBeforeAStopRunBeforeRunReturns) {
  int runs = 0;
  loop_->post([&] { loop_->post([&] { ++runs; }); });
  loop_->stop();
  loop_->run();
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace guestio::uring
