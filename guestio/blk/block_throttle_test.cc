// SPDX-License-Identifier: MIT
// Requests that wait for a limit, in the life of a queue.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestio/blk/block_queue.h"
#include "guestio/blk/test/hand_made_queue.h"
#include "guestio/disk/delay_channel.h"
#include "guestio/disk/fault_channel.h"
#include "guestio/disk/ram_channel.h"
#include "testing/virtual_timer.h"

namespace guestio::blk {
namespace {

namespace vblk = virtio::blk;
using disk::Fault;
using disk::ThrottleLimit;
using disk::ThrottleLimits;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using testing::VirtualTimer;
using vblk::RequestType;
using virtio::Direction;

constexpr std::byte kOk{0};
constexpr std::byte kIoError{1};
constexpr std::byte kUnanswered{0xff};

/// Passes its sleeps to a timer of the test.
class SharedTimer final : public task::Timer {
 public:
  explicit SharedTimer(VirtualTimer& timer) : timer_(timer) {}
  task::Task<> sleep(nanoseconds duration, task::StopToken token) override {
    return timer_.sleep(duration, token);
  }

 private:
  VirtualTimer& timer_;
};

ThrottleLimits iops(std::uint64_t average) {
  ThrottleLimits limits;
  limits[ThrottleLimit::kIopsTotal].average = average;
  return limits;
}

/// A queue whose disk takes a millisecond for each request.
class BlockThrottleTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kRequests = 16;

  void start(const ThrottleLimits& limits, OnError on_error = OnError::kReport) {
    auto ram = *disk::RamChannel::create(ByteCount(1 << 20));
    device_.emplace(BlockDeviceOptions{.disk = ram->info(), .serial = "s"});
    auto faulty = std::make_unique<disk::FaultChannel>(std::move(ram), [this](const disk::Io&) {
      ++attempts_;
      return fault_;
    });
    auto slow = std::make_unique<disk::DelayChannel>(
        std::move(faulty), timer_, [this](const disk::Io&) { return nanoseconds(latency_); });
    group_ = std::make_shared<disk::ThrottleGroup>(limits, [this] { return timer_.now(); });
    blk_ = std::make_unique<BlockQueue>(
        *device_, std::move(slow), kRequests,
        FailurePolicy{.on_error = on_error, .timer = std::make_unique<SharedTimer>(timer_)});
    blk_->set_throttle(group_);
  }
  void change(const ThrottleLimits& limits) {
    group_->set_limits(limits);
    blk_->on_limits_changed();
  }
  /// Makes a chain; process() takes it. Returns the address of its status.
  Gpa add(RequestType type) {
    const Gpa header(64 * places_);
    const Gpa status(64 * places_++ + 32);
    const vblk::RequestHeader request{type, 0, 0};
    EXPECT_TRUE(memory_.write(header, std::as_bytes(std::span(&request, 1))));
    EXPECT_TRUE(memory_.write(status, std::span(&kUnanswered, 1)));
    std::vector<test::HandMadeQueue::Extent> chain = {{header, 16, Direction::kReadable}};
    if (type != RequestType::kFlush) {
      const bool reads = type == RequestType::kIn;
      chain.push_back({Gpa(65536), 4096, reads ? Direction::kWritable : Direction::kReadable});
    }
    chain.push_back({status, 1, Direction::kWritable});
    queue_.add(std::move(chain));
    return status;
  }
  std::vector<Gpa> send(int count, RequestType type = RequestType::kIn) {
    std::vector<Gpa> sent;
    for (int i = 0; i < count; ++i) sent.push_back(add(type));
    blk_->process(queue_);
    return sent;
  }
  std::byte at(Gpa status) { return *memory_.load<std::byte>(status); }
  std::uint64_t throttled() { return blk_->throttle_statistics()->throttled; }
  /// Expects that each chain was returned once.
  void expect_used_once(std::size_t count) {
    std::vector<std::uint16_t> heads;
    for (const auto& used : queue_.used) heads.push_back(used.head);
    std::ranges::sort(heads);
    ASSERT_EQ(heads.size(), count);
    EXPECT_EQ(std::ranges::adjacent_find(heads), heads.end());
  }

  VirtualTimer timer_;
  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(1 << 20));
  std::uint64_t places_ = 0;
  std::optional<Fault> fault_;
  int attempts_ = 0;
  milliseconds latency_{1};
  std::optional<BlockDevice> device_;
  std::shared_ptr<disk::ThrottleGroup> group_;
  std::unique_ptr<BlockQueue> blk_;
  test::HandMadeQueue queue_{memory_};
};

TEST_F(BlockThrottleTest, RequestsAboveTheLimitWaitAndSucceed) {
  start(iops(100));
  const auto sent = send(10);
  timer_.run_for(milliseconds(5));
  EXPECT_EQ(queue_.used.size(), 6u);
  EXPECT_EQ(throttled(), 4u);
  timer_.run_for(milliseconds(50));
  for (const Gpa status : sent) EXPECT_EQ(at(status), kOk);
  expect_used_once(10);
}

TEST_F(BlockThrottleTest, AWaitingRequestIsNotHeld) {
  start(iops(1), OnError::kHold);
  send(2);
  EXPECT_EQ(throttled(), 1u);
  EXPECT_EQ(blk_->held(), 0u);
  blk_->fail_held();
  timer_.run_for(seconds(2));
  expect_used_once(2);
  EXPECT_EQ(attempts_, 2);
}

TEST_F(BlockThrottleTest, ARetryIsARequestOfTheLimit) {
  start(iops(10), OnError::kHold);
  fault_ = Fault{Error::host(ENOSPC, "write the image")};
  const Gpa status = send(1, RequestType::kOut)[0];
  timer_.run_for(seconds(20));
  EXPECT_GT(attempts_, 10);
  EXPECT_EQ(blk_->held(), 1u);
  fault_.reset();
  blk_->retry_held();
  timer_.run_for(seconds(2));
  EXPECT_EQ(at(status), kOk);
  expect_used_once(1);
}

TEST_F(BlockThrottleTest, AFailureAfterAWaitIsReported) {
  start(iops(1));
  const auto sent = send(2);
  fault_ = Fault{Error::host(EIO, "read the image")};
  timer_.run_for(seconds(2));
  EXPECT_EQ(at(sent[1]), kIoError);
  expect_used_once(2);
}

TEST_F(BlockThrottleTest, DrainWaitsForTheDiskOnly) {
  start(iops(1));
  const auto sent = send(16);
  blk_->drain();
  EXPECT_EQ(queue_.used.size(), 0u);
  timer_.run_for(milliseconds(1));
  for (const Gpa status : sent) EXPECT_EQ(at(status), kOk);
  expect_used_once(16);
}

TEST_F(BlockThrottleTest, ADrainedQueueIsLimitedAgain) {
  start(iops(100));
  send(16);
  blk_->drain();
  timer_.run_for(milliseconds(1));
  send(16);
  timer_.run_for(milliseconds(10));
  EXPECT_LT(queue_.used.size(), 20u);
  timer_.run_for(seconds(1));
  expect_used_once(32);
}

TEST_F(BlockThrottleTest, QuiesceWaitsForTheDiskOnlyAndHoldsNothing) {
  start(iops(1), OnError::kHold);
  send(16);
  blk_->quiesce();
  timer_.run_for(milliseconds(1));
  EXPECT_EQ(blk_->held_chains(), 0u);
  expect_used_once(16);
  blk_->resume();
  send(2);
  EXPECT_EQ(queue_.used.size(), 16u);
  timer_.run_for(seconds(3));
  expect_used_once(18);
}

TEST_F(BlockThrottleTest, WaitingRequestsThatFailDuringQuiesceAreParked) {
  start(iops(1), OnError::kHold);
  send(16);
  fault_ = Fault{Error::host(ENOSPC, "write the image")};
  blk_->quiesce();
  timer_.run_for(milliseconds(1));
  EXPECT_EQ(blk_->held_chains(), 16u);
  EXPECT_EQ(attempts_, 16);
  blk_->abandon();
  EXPECT_EQ(queue_.left.size(), 16u);
  EXPECT_TRUE(queue_.used.empty()) << "the successor returns them";
}

TEST_F(BlockThrottleTest, ParkedRequestsOfAFailedTakeoverGoThroughTheLimit) {
  start(iops(100), OnError::kHold);
  fault_ = Fault{Error::host(ENOSPC, "write the image")};
  const auto sent = send(16, RequestType::kOut);
  blk_->quiesce();
  timer_.run_for(milliseconds(1));
  fault_.reset();
  blk_->resume();
  timer_.run_for(milliseconds(2));
  EXPECT_LT(queue_.used.size(), 16u);
  timer_.run_for(seconds(1));
  for (const Gpa status : sent) EXPECT_EQ(at(status), kOk);
  expect_used_once(16);
}

TEST_F(BlockThrottleTest, ALimitMayComeAndGoWithRequestsInFlight) {
  start({});
  send(8);
  EXPECT_EQ(throttled(), 0u);
  change(iops(100));
  send(8);
  EXPECT_EQ(throttled(), 2u);
  change({});
  EXPECT_EQ(queue_.used.size(), 0u) << "all are at the disk";
  timer_.run_for(milliseconds(1));
  expect_used_once(16);
  send(16);
  timer_.run_for(milliseconds(1));
  expect_used_once(32);
  EXPECT_EQ(throttled(), 2u);
}

TEST_F(BlockThrottleTest, AQueueWithManyChainsTakesThemAsItsRequestsEnd) {
  start(iops(1000));
  std::vector<Gpa> sent;
  for (int i = 0; i < 64; ++i)
    sent.push_back(add(i % 4 == 0 ? RequestType::kFlush : RequestType::kOut));
  for (int i = 0; i < 200; ++i) {
    blk_->process(queue_);
    timer_.run_for(milliseconds(1));
  }
  for (const Gpa status : sent) EXPECT_EQ(at(status), kOk);
  expect_used_once(64);
}

TEST_F(BlockThrottleTest, AnImmediateDiskCompletesWithinTheWaitsOfOthers) {
  latency_ = milliseconds(0);
  start(iops(1000));
  send(16);
  send(16);
  send(16);
  send(16);
  timer_.run_for(std::chrono::microseconds(1500));
  EXPECT_EQ(queue_.used.size(), 52u);
  timer_.run_for(milliseconds(20));
  blk_->process(queue_);
  timer_.run_for(milliseconds(20));
  expect_used_once(64);
}

}  // namespace
}  // namespace guestio::blk
