// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/vring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <future>
#include <optional>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/virtio/ring_for_test.h"
#include "guestio/virtio/split_driver_ring.h"
#include "testing/wait_until.h"

namespace guestio::vhost {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using virtio::Direction;
using Kind = PollPolicy::Kind;

UniqueFd duplicate(const UniqueFd& fd) { return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

/// Blocks the handler once, after so many chains; 0: never.
struct Pause {
  std::atomic<std::uint64_t> after = 0;
  std::binary_semaphore over{0};
};

/// Completes each chain at once.
class EchoHandler final : public virtio::QueueHandler {
 public:
  EchoHandler(std::atomic<std::uint64_t>& served, Pause& pause) : served_(served), pause_(pause) {}
  void process(virtio::DeviceQueue& queue) noexcept override {
    while (queue.pop(popped_) == virtio::PopResult::kChain) {
      queue.complete(popped_, 1);
      if (++served_ == pause_.after) pause_.over.acquire();
    }
  }
  std::optional<std::uint32_t> write_error_status(const virtio::PoppedChain&) noexcept override {
    ++served_;
    return 1;
  }

 private:
  std::atomic<std::uint64_t>& served_;
  Pause& pause_;
  virtio::PoppedChain popped_;
};

struct Case {
  const char* name;
  PollPolicy polling;
  virtio::FeatureBits features;
};

/// A driver on the test's thread, a ring on a thread of its own.
class VringTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr std::uint16_t kSize = 64;

  void SetUp() override {
    auto thread = QueueThread::start({.name = "test", .polling = GetParam().polling});
    ASSERT_TRUE(thread) << thread.error().to_string();
    thread_ = std::move(*thread);
    auto queue = Queue::create(*thread_, 0, [this](uring::Loop&, std::uint16_t) {
      return Result<std::unique_ptr<virtio::QueueHandler>>(
          std::make_unique<EchoHandler>(served_, pause_));
    });
    ASSERT_TRUE(queue) << queue.error().to_string();
    queue_ = std::move(*queue);
    auto driver = virtio::SplitDriverRing::create(ring_.driver(), GetParam().features);
    ASSERT_TRUE(driver);
    driver_.emplace(std::move(*driver));
    thread_->call([this] {
      auto vring = Vring::create(thread_->loop(), thread_->poller(), queue_->handler(),
                                 {.ring = ring_.device(),
                                  .features = GetParam().features,
                                  .memory = ring_.memory(),
                                  .kick = duplicate(kick_),
                                  .call = duplicate(call_),
                                  .is_enabled = true,
                                  .control_loop = control_loop_.get()});
      ASSERT_TRUE(vring) << vring.error().to_string();
      queue_->vring() = std::move(*vring);
      queue_->vring()->start();
    });
    ASSERT_TRUE(wait_for_call()) << "a starting ring calls once";
  }

  void TearDown() override {
    if (!queue_ || !queue_->vring()) return;
    std::promise<void> stopped;
    auto done = stopped.get_future();
    thread_->call([&] {
      queue_->vring()->stop([&](std::uint16_t) {
        thread_->loop().post([&] {
          queue_->vring().reset();
          stopped.set_value();
        });
      });
    });
    done.wait();
    control_loop_->run_until_idle();
  }

  void add() {
    const std::array segment = {
        virtio::DriverSegment{virtio::RingForTest::kData, 1, Direction::kWritable}};
    ASSERT_TRUE(driver_->add(segment));
  }
  /// Publishes the added chains, and kicks if needed. Returns whether it kicked.
  bool publish() {
    const auto needs_kick = driver_->publish();
    EXPECT_TRUE(needs_kick);
    if (*needs_kick) ::eventfd_write(kick_.get(), 1);
    return *needs_kick;
  }
  int reap() {
    int count = 0;
    while (driver_->reap()->has_value()) ++count;
    return count;
  }
  /// Returns the calls since the last time; 0 after `time` without one.
  std::uint64_t wait_for_call(milliseconds time = milliseconds(60'000)) const {
    pollfd event{call_.get(), POLLIN, 0};
    std::uint64_t count = 0;
    if (::poll(&event, 1, static_cast<int>(time.count())) == 1) ::eventfd_read(call_.get(), &count);
    return count;
  }
  /// Sleeps until a chain is returned.
  void wait_for_return() {
    while (!*driver_->enable_calls()) ASSERT_TRUE(wait_for_call()) << "lost a chain or its call";
  }
  std::uint64_t iterations() {
    std::uint64_t count = 0;
    thread_->call([&] { count = thread_->loop().statistics().iterations; });
    return count;
  }

  virtio::RingForTest ring_{kSize};
  UniqueFd kick_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  UniqueFd call_{::eventfd(0, EFD_CLOEXEC)};
  std::atomic<std::uint64_t> served_ = 0;
  Pause pause_;
  std::unique_ptr<uring::Loop> control_loop_ = uring::Loop::create().value();
  std::optional<virtio::SplitDriverRing> driver_;
  std::unique_ptr<QueueThread> thread_;
  std::unique_ptr<Queue> queue_;
};

constexpr auto kEventIdx = virtio::kFeatureEventIdx;
INSTANTIATE_TEST_SUITE_P(
    Policies, VringTest,
    ::testing::Values(Case{"never_polls", {Kind::kFixed, microseconds(0)}, kEventIdx},
                      Case{"never_polls_flags", {Kind::kFixed, microseconds(0)}, 0},
                      Case{"polls_while_it_pays", {Kind::kAdaptive, microseconds(32)}, kEventIdx},
                      Case{"polls_while_it_pays_flags", {Kind::kAdaptive, microseconds(32)}, 0},
                      Case{"polls_a_long_time", {Kind::kFixed, microseconds(2000)}, kEventIdx},
                      Case{"polls_a_long_time_flags", {Kind::kFixed, microseconds(2000)}, 0},
                      Case{"never_sleeps", {Kind::kAlways, microseconds(0)}, kEventIdx},
                      Case{"never_sleeps_flags", {Kind::kAlways, microseconds(0)}, 0}),
    [](const auto& info) { return info.param.name; });

TEST_P(VringTest, NoChainIsLostWhenSleepAndAKickCoincide) {
  constexpr int kRounds = 500;
  for (int i = 0; i < kRounds; ++i) {
    add();
    publish();
    wait_for_return();
    ASSERT_EQ(reap(), 1);
    // Pauses around the length of the poll window.
    const auto until = std::chrono::steady_clock::now() + microseconds(i % 64);
    while (std::chrono::steady_clock::now() < until) {
    }
  }
  EXPECT_EQ(served_, kRounds);
}

TEST_P(VringTest, ABatchCausesOneCall) {
  ASSERT_TRUE(*driver_->enable_calls() == false);
  for (int i = 0; i < kSize; ++i) add();
  publish();
  ASSERT_EQ(wait_for_call(), 1U);
  while (served_ < kSize) std::this_thread::yield();
  EXPECT_EQ(wait_for_call(milliseconds(20)), 0U);
  EXPECT_EQ(reap(), kSize);
}

TEST_P(VringTest, Rule27EachMalformedChainOfABatchIsReturnedAndTheRingContinues) {
  constexpr int kMalformed = kSize / 2;
  const std::array chain = {
      virtio::DriverSegment{virtio::RingForTest::kData, 1, Direction::kWritable},
      virtio::DriverSegment{virtio::RingForTest::kData, 1, Direction::kReadable}};
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < kMalformed; ++i) ASSERT_TRUE(driver_->add(chain));
    publish();
    for (int reaped = 0; reaped < kMalformed; reaped += reap()) {
      ASSERT_NO_FATAL_FAILURE(wait_for_return());
    }
  }
  add();
  publish();
  wait_for_return();
  EXPECT_EQ(reap(), 1);
  EXPECT_EQ(served_, 3U * kMalformed + 1);
}

TEST_P(VringTest, AnIdleThreadDoesNothing) {
  constexpr std::uint64_t kIterationsOfTheMeasurement = 4;
  const bool never_sleeps = GetParam().polling.kind == Kind::kAlways;
  add();
  publish();
  wait_for_return();
  // On a busy machine the call, the sleep and any turn of the thread may be late.
  EXPECT_TRUE(wait_until([&] {
    const auto before = iterations();
    const bool is_called = wait_for_call(milliseconds(50)) != 0;
    const auto turns = iterations() - before;
    return !is_called && (never_sleeps ? turns > 100 : turns <= kIterationsOfTheMeasurement);
  }));
}

/// Reports the thread of its end.
class LastSeenBacking final : public mem::PlainBacking {
 public:
  explicit LastSeenBacking(std::promise<std::thread::id>& gone) : gone_(gone) {}
  LastSeenBacking(const LastSeenBacking&) = delete;
  LastSeenBacking& operator=(const LastSeenBacking&) = delete;
  ~LastSeenBacking() override { gone_.set_value(std::this_thread::get_id()); }
  [[nodiscard]] std::span<std::byte> mapping() const noexcept override { return bytes_.bytes(); }
  [[nodiscard]] Mapping::Access access() const noexcept override {
    return Mapping::Access::kReadWrite;
  }

 private:
  std::promise<std::thread::id>& gone_;
  const Mapping bytes_ = Mapping::anonymous(kPageSize).value();
};

TEST_P(VringTest, OldMemoryIsUnmappedOnTheControlThread) {
  std::promise<std::thread::id> gone;
  auto seen = gone.get_future();
  const auto use = [this](mem::GuestMemory memory) {
    thread_->call([&] { queue_->vring()->set_memory(std::move(memory), ring_.device(), {}); });
  };
  use(mem::GuestMemory::create(
          std::vector{mem::RegionSpec{.start = Gpa(0),
                                      .length = ByteCount(kPageSize),
                                      .backing = std::make_shared<LastSeenBacking>(gone)}})
          .value());
  use(ring_.memory());
  EXPECT_EQ(seen.wait_for(milliseconds(0)), std::future_status::timeout);
  control_loop_->run_until_idle();
  ASSERT_EQ(seen.wait_for(milliseconds(0)), std::future_status::ready);
  EXPECT_EQ(seen.get(), std::this_thread::get_id());
}

using AlwaysPollingTest = VringTest;
INSTANTIATE_TEST_SUITE_P(Always, AlwaysPollingTest,
                         ::testing::Values(Case{"event_index", {Kind::kAlways, {}}, kEventIdx},
                                           Case{"flags", {Kind::kAlways, {}}, 0}),
                         [](const auto& info) { return info.param.name; });

TEST_P(AlwaysPollingTest, NeedsNoKick) {
  for (int i = 0; i < 100; ++i) {
    add();
    ASSERT_TRUE(driver_->publish());
    wait_for_return();
    EXPECT_EQ(reap(), 1);
  }
}

using EventIndexTest = VringTest;
INSTANTIATE_TEST_SUITE_P(Policies, EventIndexTest,
                         ::testing::Values(Case{"never_polls", {Kind::kFixed, {}}, kEventIdx},
                                           Case{"never_sleeps", {Kind::kAlways, {}}, kEventIdx}),
                         [](const auto& info) { return info.param.name; });

TEST_P(EventIndexTest, ASleepingDriverIsCalledBeforeTheEndOfALongBatch) {
  ASSERT_FALSE(*driver_->enable_calls());
  pause_.after = kSize / 2;
  for (int i = 0; i < kSize; ++i) add();
  publish();
  EXPECT_EQ(wait_for_call(), 1U) << "while the other half is blocked";
  int reaped = reap();
  EXPECT_GE(reaped, 1);
  pause_.over.release();
  while (reaped < kSize) {
    ASSERT_NO_FATAL_FAILURE(wait_for_return());
    reaped += reap();
  }
}

}  // namespace
}  // namespace guestio::vhost
