// SPDX-License-Identifier: MIT
// Several rings of one thread: idle ones are parked, and no chain is lost.
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

namespace guestio::vhost::parked_ring_test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

UniqueFd duplicate(const UniqueFd& fd) { return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }
UniqueFd make_event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

/// Completes each chain at once.
class EchoHandler final : public virtio::QueueHandler {
 public:
  void process(virtio::DeviceQueue& queue) noexcept override {
    while (queue.pop(popped_) == virtio::PopResult::kChain) queue.complete(popped_, 1);
  }

 private:
  virtio::PoppedChain popped_;
};

/// Both sides of a ring. Lifetime: ends before its thread.
class RingPair {
 public:
  RingPair(QueueThread& thread, virtio::FeatureBits features)
      : thread_(thread),
        queue_(Queue::create(thread, 0,
                             [](uring::Loop&, std::uint16_t) {
                               return Result<std::unique_ptr<virtio::QueueHandler>>(
                                   std::make_unique<EchoHandler>());
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
  RingPair(const RingPair&) = delete;
  RingPair& operator=(const RingPair&) = delete;
  ~RingPair() {
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

  /// Returns whether the device needs a kick.
  bool add() {
    const std::array segment = {
        virtio::DriverSegment{virtio::RingForTest::kData, 1, virtio::Direction::kWritable}};
    EXPECT_TRUE(driver_.add(segment));
    return driver_.publish().value();
  }
  void kick() { ::eventfd_write(kick_.get(), 1); }
  /// Sleeps until the chain is returned.
  void expect_return() {
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
    expect_return();
  }
  void change(std::move_only_function<void(Vring&)> function) {
    thread_.call([&] { function(*queue_->vring()); });
  }
  /// Changes the kick descriptor.
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
  /// Keeps the thread awake with the busy ring until the idle one is parked. It is the idle one,
  /// because it has more empty polls.
  void park_idle() {
    idle_->exchange();
    do busy_->exchange();
    while (parked() == 0);
  }

  std::unique_ptr<QueueThread> thread_ =
      QueueThread::start({.name = "test", .polling = {PollPolicy::Kind::kFixed, microseconds(500)}})
          .value();
  std::optional<RingPair> busy_{std::in_place, *thread_, GetParam()};
  std::optional<RingPair> idle_{std::in_place, *thread_, GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Suppression, ParkedRingTest,
                         ::testing::Values(virtio::kFeatureEventIdx, virtio::FeatureBits(0)),
                         [](const auto& info) {
                           return info.param == 0 ? "flags" : "event_index";
                         });

TEST_P(ParkedRingTest, AParkedRingHasNotificationsEnabledAndIsUnparkedByAKick) {
  for (int i = 0; i < 10; ++i) {
    park_idle();
    EXPECT_TRUE(idle_->add());
    idle_->kick();
    idle_->expect_return();
  }
}

TEST_P(ParkedRingTest, NoChainIsLostWhenParkingAndAKickCoincide) {
  std::atomic<bool> is_over = false;
  std::thread load([&] {
    while (!is_over) busy_->exchange();
  });
  for (int i = 0; i < 300; ++i) {
    // Pauses around the time until it is parked.
    const auto until = std::chrono::steady_clock::now() + microseconds(5 * (i % 100));
    while (std::chrono::steady_clock::now() < until) {
    }
    idle_->exchange();
  }
  is_over = true;
  load.join();
}

TEST_P(ParkedRingTest, AnyChangeOfAParkedRingPollsIt) {
  park_idle();
  // A kick on the old descriptor is lost.
  (void)idle_->add();
  idle_->set_kick();
  idle_->expect_return();
  park_idle();
  (void)idle_->add();
  idle_->change([](Vring& ring) { ring.set_enabled(true); });
  idle_->expect_return();
  park_idle();
  std::atomic<bool> is_quiesced = false;
  idle_->change([&](Vring& ring) { ring.quiesce([&](auto) { is_quiesced = true; }); });
  (void)idle_->add();
  busy_->exchange();
  EXPECT_TRUE(is_quiesced);
  idle_->change([](Vring& ring) { ring.resume(); });
  idle_->expect_return();
}

TEST_P(ParkedRingTest, ARingMayEndWhileParkedAndTheLastOneContinues) {
  park_idle();
  idle_.reset();
  busy_->exchange();
  idle_.emplace(*thread_, GetParam());
  park_idle();
  // The parked ring stays, without any polled ring.
  busy_.reset();
  for (int i = 0; i < 10; ++i) idle_->exchange();
}

}  // namespace
}  // namespace guestio::vhost::parked_ring_test
