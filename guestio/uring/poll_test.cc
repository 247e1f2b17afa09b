// SPDX-License-Identifier: MIT
#include "guestio/uring/poll.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <list>
#include <memory>
#include <thread>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/operation_test.h"
#include "guestio/uring/run_task.h"

namespace guestio::uring {
namespace {

using task::Task;

class MultishotPollTest : public ::testing::TestWithParam<RingMode> {
 protected:
  void SetUp() override {
    auto loop = Loop::create({.ring = {.cq_entries = 512, .mode = GetParam()}});
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
  }

  File event_file() const { return File(event_.get()); }
  void signal() const { ::eventfd_write(event_.get(), 1); }

  std::unique_ptr<Loop> loop_;
  UniqueFd event_{::eventfd(0, EFD_CLOEXEC)};
};

INSTANTIATE_TEST_SUITE_P(Modes, MultishotPollTest,
                         ::testing::Values(RingMode::kDeferred, RingMode::kCooperative,
                                           RingMode::kPlain),
                         [](const auto& info) { return to_text(info.param); });

Task<> stop_poll(MultishotPoll& poll) { co_await poll.stop(); }

TEST_P(MultishotPollTest, CallsBackForEachEventWithoutReadingIt) {
  constexpr int kEvents = 1000;
  int calls = 0;
  MultishotPoll poll(*loop_, event_file(), POLLIN, [&](std::int32_t events) {
    EXPECT_EQ(events, POLLIN);
    if (++calls == kEvents) return loop_->stop();
    signal();
  });
  poll.start();
  signal();
  loop_->run();
  EXPECT_EQ(calls, kEvents);
  run_task(*loop_, stop_poll(poll));
  EXPECT_EQ(loop_->in_flight(), 0U);
}

TEST_P(MultishotPollTest, CostsOneSystemCallPerEvent) {
  constexpr int kEvents = 1000;
  int calls = 0;
  MultishotPoll poll(*loop_, event_file(), POLLIN, [&](std::int32_t) {
    if (++calls == kEvents) return loop_->stop();
    signal();
  });
  poll.start();
  signal();
  const std::uint64_t before = loop_->statistics().enter_calls;
  loop_->run();
  EXPECT_LE(loop_->statistics().enter_calls - before, kEvents + 2U);
  run_task(*loop_, stop_poll(poll));
}

TEST_P(MultishotPollTest, CallsBackForAnEventBeforeTheStart) {
  int calls = 0;
  signal();
  MultishotPoll poll(*loop_, event_file(), POLLIN, [&](std::int32_t) {
    ++calls;
    loop_->stop();
  });
  poll.start();
  loop_->run();
  EXPECT_EQ(calls, 1);
  run_task(*loop_, stop_poll(poll));
}

TEST_P(MultishotPollTest, WorksOnARegisteredFile) {
  int calls = 0;
  const File registered = loop_->register_file(event_.get());
  ASSERT_TRUE(registered.is_registered());
  MultishotPoll poll(*loop_, registered, POLLIN, [&](std::int32_t) {
    ++calls;
    loop_->stop();
  });
  poll.start();
  signal();
  loop_->run();
  EXPECT_EQ(calls, 1);
  run_task(*loop_, stop_poll(poll));
  loop_->unregister_file(registered);
}

TEST_P(MultishotPollTest, MissesNoEventOfAnotherThread) {
  constexpr std::uint64_t kEvents = 20'000;
  std::atomic<std::uint64_t> produced = 0;
  std::uint64_t consumed = 0;
  MultishotPoll poll(*loop_, event_file(), POLLIN, [&](std::int32_t) {
    consumed = produced.load();
    if (consumed == kEvents) loop_->stop();
  });
  poll.start();
  std::thread peer([&] {
    for (std::uint64_t i = 0; i < kEvents; ++i) {
      produced.fetch_add(1);
      signal();
    }
  });
  loop_->run();  // hangs if the last event is lost
  peer.join();
  EXPECT_EQ(consumed, kEvents);
  run_task(*loop_, stop_poll(poll));
}

TEST_P(MultishotPollTest, SurvivesACompletionQueueOverflow) {
  // More polls of one event than CQ entries: the kernel terminates some of them.
  constexpr std::size_t kPolls = 2000;
  int round = 1;
  std::size_t told = 0;
  std::vector<int> last_round_seen(kPolls);
  std::list<MultishotPoll> polls;
  for (std::size_t i = 0; i < kPolls; ++i) {
    polls
        .emplace_back(*loop_, event_file(), POLLIN,
                      [&, i](std::int32_t) {
                        if (std::exchange(last_round_seen[i], round) == round) return;
                        if (++told == kPolls) loop_->stop();
                      })
        .start();
  }
  TestOperation armed(do_nothing(), [&](std::int32_t, std::uint32_t) { signal(); });
  loop_->start(armed);
  loop_->run();
  round = 2;
  told = 0;
  signal();
  loop_->run();
  EXPECT_EQ(told, kPolls);
  task::Scope scope;
  for (MultishotPoll& poll : polls) scope.spawn(stop_poll(poll));
  loop_->run_until_idle();
  EXPECT_EQ(scope.running(), 0U);
}

TEST_P(MultishotPollTest, NoCallbackAfterStop) {
  int calls = 0;
  MultishotPoll poll(*loop_, event_file(), POLLIN, [&](std::int32_t) { ++calls; });
  poll.start();
  loop_->stop();
  loop_->run();
  signal();
  run_task(*loop_, stop_poll(poll));
  EXPECT_EQ(calls, 0);
  EXPECT_FALSE(poll.is_active());
}

TEST_P(MultishotPollTest, TheCallbackMayStopItAndItMayStartAgain) {
  int calls = 0;
  MultishotPoll* itself = nullptr;
  MultishotPoll poll(*loop_, event_file(), POLLIN, [&](std::int32_t) {
    ++calls;
    (void)itself->stop();
  });
  itself = &poll;
  poll.start();
  signal();
  loop_->run_until_idle();
  EXPECT_EQ(calls, 1);
  poll.start();
  loop_->run_until_idle();
  EXPECT_EQ(calls, 2);
}

Task<> stop_and_destroy(std::unique_ptr<MultishotPoll>& poll) {
  co_await poll->stop();
  poll.reset();
}

TEST_P(MultishotPollTest, MayBeDestroyedAfterStop) {
  auto poll = std::make_unique<MultishotPoll>(*loop_, event_file(), POLLIN, [](std::int32_t) {});
  poll->start();
  run_task(*loop_, stop_and_destroy(poll));
  EXPECT_EQ(poll, nullptr);
}

TEST_P(MultishotPollTest, StopOfAnInactivePollDoesNotWait) {
  MultishotPoll poll(*loop_, event_file(), POLLIN, [](std::int32_t) {});
  run_task(*loop_, stop_poll(poll));
  EXPECT_FALSE(poll.is_active());
}

TEST_P(MultishotPollTest, ReportsAnUnpollableDescriptorOnce) {
  std::vector<std::int32_t> calls;
  MultishotPoll poll(*loop_, File(-1), POLLIN,
                     [&](std::int32_t events) { calls.push_back(events); });
  poll.start();
  loop_->run_until_idle();
  EXPECT_THAT(calls, ::testing::ElementsAre(-EBADF));
  EXPECT_FALSE(poll.is_active());
}

TEST_P(MultishotPollTest, ReportsAHangUp) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  std::int32_t seen = 0;
  MultishotPoll poll(*loop_, File(reader.get()), POLLIN, [&](std::int32_t events) {
    seen |= events;
    loop_->stop();
  });
  poll.start();
  writer.reset();
  loop_->run();
  EXPECT_NE(seen & POLLHUP, 0);
  run_task(*loop_, stop_poll(poll));
}

using MultishotPollDeathTest = MultishotPollTest;
INSTANTIATE_TEST_SUITE_P(OneMode, MultishotPollDeathTest, ::testing::Values(RingMode::kPlain));

TEST_P(MultishotPollDeathTest, DestroyingAnActivePollIsABug) {
  EXPECT_DEATH(
      {
        MultishotPoll poll(*loop_, event_file(), POLLIN, [](std::int32_t) {});
        poll.start();
      },
      "operation complete before its destruction");
}

}  // namespace
}  // namespace guestio::uring
