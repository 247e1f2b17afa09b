// SPDX-License-Identifier: MIT
#include "guestio/registered/memory_monitor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <memory>
#include <optional>

#include "testing/wait_until.h"

namespace guestio::registered {
namespace {

constexpr off_t kFileBytes = 65536;

class CountingSubscriber final : public MemoryMonitor::Subscriber {
 public:
  void on_memory_changed() noexcept override {
    count_.fetch_add(1);
    count_.notify_all();
  }
  /// Whether it is called more than `before` times, within a long time.
  bool is_notified(int before = 0) const {
    return wait_until([&] { return count_.load() > before; });
  }
  [[nodiscard]] int count() const { return count_.load(); }

 private:
  std::atomic<int> count_ = 0;
};

/// Any file in a tree; memory files are not special.
struct ModifiedFile {
  ModifiedFile() {
    EXPECT_TRUE(fd);
    EXPECT_EQ(::posix_fallocate(fd.get(), 0, kFileBytes), 0);
  }
  void punch() const {
    EXPECT_EQ(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kFileBytes / 2),
              0);
  }
  UniqueFd fd{::open(::testing::TempDir().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
};

class MemoryMonitorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!UniqueFd(::inotify_init1(IN_CLOEXEC))) GTEST_SKIP() << "no inotify left for this user";
  }
};

TEST_F(MemoryMonitorTest, SubscribersOfAFileAreToldOfAHole) {
  const auto monitor = MemoryMonitor::of_process().value();
  const ModifiedFile file;
  const ModifiedFile another;
  CountingSubscriber first;
  CountingSubscriber second;
  const auto subscription = monitor->subscribe(file.fd.get(), first);
  const auto same_file = monitor->subscribe(file.fd.get(), second);
  const auto same_subscriber = monitor->subscribe(another.fd.get(), first);
  file.punch();
  EXPECT_TRUE(first.is_notified());
  EXPECT_TRUE(second.is_notified());
  const int before = first.count();
  another.punch();
  EXPECT_TRUE(first.is_notified(before));
}

TEST_F(MemoryMonitorTest, AnEndedSubscriptionIsNotCalledAndOthersOfTheFileAre) {
  const auto monitor = MemoryMonitor::of_process().value();
  const ModifiedFile file;
  CountingSubscriber stays;
  const auto subscription = monitor->subscribe(file.fd.get(), stays);
  auto leaves = std::make_unique<CountingSubscriber>();
  {
    const auto left = monitor->subscribe(file.fd.get(), *leaves);
    file.punch();
    EXPECT_TRUE(leaves->is_notified());
  }
  // A call would access freed memory.
  leaves.reset();
  const int before = stays.count();
  file.punch();
  EXPECT_TRUE(stays.is_notified(before));
}

TEST_F(MemoryMonitorTest, OneMonitorExistsWhileItIsUsedAndANewOneAfterwards) {
  const ModifiedFile file;
  for (int round = 0; round < 3; ++round) {
    auto monitor = MemoryMonitor::of_process().value();
    EXPECT_EQ(MemoryMonitor::of_process().value(), monitor);
    CountingSubscriber subscriber;
    const auto subscription = monitor->subscribe(file.fd.get(), subscriber);
    monitor.reset();
    file.punch();
    EXPECT_TRUE(subscriber.is_notified());
  }
}

TEST_F(MemoryMonitorTest, AnUnwatchableFileDoesNotAffectOthers) {
  const auto monitor = MemoryMonitor::of_process().value();
  const ModifiedFile file;
  CountingSubscriber subscriber;
  const auto nothing = monitor->subscribe(-1, subscriber);
  EXPECT_FALSE(nothing.is_file_watched());
  const auto subscription = monitor->subscribe(file.fd.get(), subscriber);
  EXPECT_TRUE(subscription.is_file_watched());
  file.punch();
  EXPECT_TRUE(subscriber.is_notified());
}

TEST_F(MemoryMonitorTest, ManyEventsOfOneFileDoNotDelayOthers) {
  const auto monitor = MemoryMonitor::of_process().value();
  const std::array<ModifiedFile, 2> noisy;
  const ModifiedFile quiet;
  CountingSubscriber flooded;
  CountingSubscriber subscriber;
  const auto first = monitor->subscribe(noisy[0].fd.get(), flooded);
  const auto second = monitor->subscribe(noisy[1].fd.get(), flooded);
  const auto subscription = monitor->subscribe(quiet.fd.get(), subscriber);
  // Alternating, so that the kernel merges no events.
  for (int i = 0; i < 20000; ++i) {
    EXPECT_EQ(::pwrite(noisy[static_cast<std::size_t>(i % 2)].fd.get(), "x", 1, 0), 1);
  }
  quiet.punch();
  EXPECT_TRUE(subscriber.is_notified());
  EXPECT_LT(flooded.count(), 1000) << "one notification for many events";
}

}  // namespace
}  // namespace guestio::registered
