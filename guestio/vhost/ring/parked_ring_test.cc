// SPDX-License-Identifier: MIT
// Several rings of one thread: those that are idle are left out of the looking, and nothing is
// lost.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <thread>

#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/virtio/ring_for_test.h"
#include "guestio/virtio/split_driver_ring.h"

namespace guestio::vhost::ring_rest_test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

UniqueFd duplicate(const UniqueFd& fd) { return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }
UniqueFd make_event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

/// Answers each chain at once.
class Echo final : public virtio::QueueHandler {
 public:
  void process(virtio::DeviceQueue& queue) noexcept override {
    while (queue.pop(taken_) == virtio::PopResult::kChain) queue.complete(taken_, 1);
  }

 private:
  virtio::PoppedChain taken_;
};

/// A ring with both its sides. Lifetime: its thread outlives it.
class Pair {
 public:
  Pair(QueueThread& thread, virtio::FeatureBits features)
      : thread_(thread),
        queue_(Queue::create(thread, 0,
                             [](uring::Loop&, std::uint16_t) {
                               return Result<std::unique_ptr<virtio::QueueHandler>>(
                                   std::make_unique<Echo>());
                             })
                   .value()),
        driver_(virtio::SplitDriverRing::create(ring_.driver(), features).value()) {
    thread_.call([&] {
      queue_->vring() = Vring::create(thread_.loop(), thread_.poller(), queue_->handler(),
                                      {.ring = ring_.device(),
                                       .features = features,
                                       .memory = ring_.memory(),
                                       .kick = duplicate(kick_),
                                       .call = duplicate(call_),
                                       .is_enabled = true})
                            .value();
      queue_->vring()->start();
    });
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  ~Pair() {
    std::promise<void> stopped;
    thread_.call([&] {
      queue_->vring()->stop([&](std::uint16_t) {
        thread_.loop().post([&] {
          queue_->vring().reset();
          stopped.set_value();
        });
      });
    });
    stopped.get_future().wait();
  }

  /// Returns whether the device wants a kick for it.
  bool add() {
    const std::array segment = {virtio::SplitDriverRing::Segment{virtio::RingForTest::kData, 1,
                                                                 virtio::Direction::kWritable}};
    EXPECT_TRUE(driver_.add(segment));
    return driver_.publish().value();
  }
  void kick() { ::eventfd_write(kick_.get(), 1); }
  /// Sleeps until the chain has come back.
  void expect_answer() {
    while (!driver_.enable_calls().value()) {
      pollfd event{call_.get(), POLLIN, 0};
      ASSERT_EQ(::poll(&event, 1, 60'000), 1) << "lost a chain or its call";
      std::uint64_t count = 0;
      ::eventfd_read(call_.get(), &count);
    }
    EXPECT_TRUE(driver_.reap()->has_value());
  }
  void exchange() {
    if (add()) kick();
    expect_answer();
  }
  void change(std::move_only_function<void(Vring&)> how) {
    thread_.call([&] { how(*queue_->vring()); });
  }
  /// From now on the driver kicks there.
  void set_kick() {
    kick_ = make_event();
    change([&](Vring& ring) { ring.set_kick(duplicate(kick_)); });
  }

 private:
  QueueThread& thread_;
  virtio::RingForTest ring_{64};
  UniqueFd kick_ = make_event();
  UniqueFd call_ = make_event();
  std::unique_ptr<Queue> queue_;
  virtio::SplitDriverRing driver_;
};

class ParkedRingTest : public ::testing::TestWithParam<virtio::FeatureBits> {
 protected:
  std::uint64_t parked() const { return thread_->poll_counters().parked.value(); }
  /// Keeps the thread awake with the other ring until this one rests. It is this one, because it
  /// has been looked at in vain for longer.
  void let_rest() {
    idle_->exchange();
    do busy_->exchange();
    while (parked() == 0);
  }

  std::unique_ptr<QueueThread> thread_ =
      QueueThread::start({.name = "test", .polling = {PollPolicy::Kind::kFixed, microseconds(500)}})
          .value();
  std::optional<Pair> busy_{std::in_place, *thread_, GetParam()};
  std::optional<Pair> idle_{std::in_place, *thread_, GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Wishes, ParkedRingTest,
                         ::testing::Values(virtio::kFeatureEventIdx, virtio::FeatureBits(0)),
                         [](const auto& info) {
                           return info.param == 0 ? "flags" : "event_index";
                         });

TEST_P(ParkedRingTest, ARingThatRestsWantsAKickAndIsWokenByIt) {
  for (int i = 0; i < 10; ++i) {
    let_rest();
    EXPECT_TRUE(idle_->add());
    idle_->kick();
    idle_->expect_answer();
  }
}

TEST_P(ParkedRingTest, NoChainIsLostWhenRestAndKickMeet) {
  std::atomic<bool> is_over = false;
  std::thread load([&] {
    while (!is_over) busy_->exchange();
  });
  for (int i = 0; i < 300; ++i) {
    // Pauses around the time after which it rests.
    const auto until = std::chrono::steady_clock::now() + microseconds(5 * (i % 100));
    while (std::chrono::steady_clock::now() < until) {
    }
    idle_->exchange();
  }
  is_over = true;
  load.join();
}

TEST_P(ParkedRingTest, WhoeverChangesARingHasItLookedAt) {
  let_rest();
  // A kick for it goes astray: it was on its way to the descriptor of before.
  (void)idle_->add();
  idle_->set_kick();
  idle_->expect_answer();
  let_rest();
  (void)idle_->add();
  idle_->change([](Vring& ring) { ring.set_enabled(true); });
  idle_->expect_answer();
  let_rest();
  std::atomic<bool> is_paused = false;
  idle_->change([&](Vring& ring) { ring.quiesce([&](auto) { is_paused = true; }); });
  (void)idle_->add();
  busy_->exchange();
  EXPECT_TRUE(is_paused);
  idle_->change([](Vring& ring) { ring.resume(); });
  idle_->expect_answer();
}

TEST_P(ParkedRingTest, ARingMayEndWhileItRestsAndTheLastOneGoesOn) {
  let_rest();
  idle_.reset();
  busy_->exchange();
  idle_.emplace(*thread_, GetParam());
  let_rest();
  // What rests stays, though nothing is left to be looked at.
  busy_.reset();
  for (int i = 0; i < 10; ++i) idle_->exchange();
}

}  // namespace
}  // namespace guestio::vhost::ring_rest_test
