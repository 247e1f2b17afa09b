// SPDX-License-Identifier: MIT
// Waits of requests by virtual time, and the shares of disks in a group.
#include "guestio/disk/throttle_channel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "guestio/disk/test/limited_disk.h"

namespace guestio::disk {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;
using test::LimitedDisk;
using test::TestIo;
using testing::VirtualTimer;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

ThrottleLimits make_limits(ThrottleLimit limit, ThrottleRate rate) {
  ThrottleLimits limits;
  limits[limit] = rate;
  return limits;
}

class ThrottleChannelTest : public ::testing::Test {
 protected:
  std::shared_ptr<ThrottleGroup> make_group(ThrottleLimit limit, ThrottleRate rate) {
    return std::make_shared<ThrottleGroup>(make_limits(limit, rate),
                                           [this] { return timer_.now(); });
  }
  nanoseconds wait_of(const TestIo& request) {
    EXPECT_EQ(request.starts, 1u) << "it still waits";
    return request.started - request.arrived;
  }
  void start_many(LimitedDisk& disk, unsigned count, IoKind kind, std::uint64_t length = 4096) {
    for (unsigned i = 0; i < count; ++i) disk.start(kind, length);
  }

  VirtualTimer timer_;
};

// Accuracy.

struct Workload {
  ThrottleLimit limit;
  std::uint64_t rate;
  IoKind kind;
  std::uint64_t length;
  unsigned depth;
  nanoseconds lateness;
};

class ThrottleAccuracyTest : public ThrottleChannelTest,
                             public ::testing::WithParamInterface<Workload> {};

TEST_P(ThrottleAccuracyTest, TenSecondsAreWithinTwoPercentOfTheLimit) {
  const Workload& work = GetParam();
  LimitedDisk disk(timer_, make_group(work.limit, {.average = work.rate}));
  disk.late_timer.lateness = work.lateness;
  disk.keep(work.depth, work.kind, work.length);
  timer_.run_for(10s);
  const std::uint64_t done =
      work.limit >= ThrottleLimit::kBpsTotal ? disk.medium.bytes : disk.medium.operations;
  const double expected = 10 * static_cast<double>(work.rate);
  EXPECT_NEAR(static_cast<double>(done), expected, 0.02 * expected);
}

std::vector<Workload> all_workloads() {
  std::vector<Workload> all;
  for (const unsigned depth : {1U, 128U}) {
    for (const std::uint64_t length : {std::uint64_t{4096}, kMiB}) {
      for (const nanoseconds lateness : {nanoseconds(0), nanoseconds(3ms)}) {
        const auto add = [&](ThrottleLimit limit, std::uint64_t rate, IoKind kind) {
          all.push_back({limit, rate, kind, length, depth, lateness});
        };
        add(ThrottleLimit::kIopsTotal, 3000, IoKind::kRead);
        add(ThrottleLimit::kIopsWrite, 500, IoKind::kWrite);
        add(ThrottleLimit::kBpsTotal, 20'000'000, IoKind::kWrite);
        add(ThrottleLimit::kBpsRead, 10'000'000, IoKind::kRead);
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Loads, ThrottleAccuracyTest, ::testing::ValuesIn(all_workloads()),
                         [](const auto& test) {
                           const Workload& work = test.param;
                           std::string name = to_text(work.limit);
                           std::ranges::replace(name, '-', '_');
                           return name + "_depth" + std::to_string(work.depth) + "_" +
                                  std::to_string(work.length / 1024) + "KiB" +
                                  (work.lateness == 0ns ? "" : "_late_timer");
                         });

TEST_F(ThrottleChannelTest, LimitsOfReadsLeaveWritesAlone) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kBpsRead, {.average = 4096}));
  start_many(disk, 3, IoKind::kRead);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(wait_of(disk.start(IoKind::kWrite, kMiB)), 0ns);
    EXPECT_EQ(wait_of(disk.start(IoKind::kFlush, 0)), 0ns);
  }
  EXPECT_EQ(disk.channel.waiting(), 2u);
}

TEST_F(ThrottleChannelTest, EachOfSeveralLimitsHolds) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1000});
  ThrottleLimits limits = group->limits();
  limits[ThrottleLimit::kBpsWrite] = {.average = 1'000'000};
  group->set_limits(limits);
  LimitedDisk disk(timer_, group);
  disk.keep(32, IoKind::kWrite, 4096);
  disk.keep(32, IoKind::kRead, 4096);
  timer_.run_for(10s);
  const auto writes = std::ranges::count(disk.medium.started, IoKind::kWrite, &TestIo::kind);
  EXPECT_NEAR(static_cast<double>(writes) * 4096, 1e7, 2e5);
  EXPECT_NEAR(static_cast<double>(disk.medium.operations), 10000, 200);
}

// Bursts.

TEST_F(ThrottleChannelTest, ABurstHasItsRateAndItsLength) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal,
                                      {.average = 100, .max = 1000, .max_seconds = 2}));
  disk.keep(64, IoKind::kRead, 4096);
  timer_.run_for(1s);
  EXPECT_NEAR(static_cast<double>(disk.medium.operations), 1000, 60) << "the burst rate";
  timer_.run_for(1s);
  EXPECT_NEAR(static_cast<double>(disk.medium.operations), 2000, 60) << "for two seconds";
  timer_.run_for(10s);
  EXPECT_NEAR(static_cast<double>(disk.medium.operations), 3000, 60) << "then the average";
}

TEST_F(ThrottleChannelTest, AnIdleTimeEarnsTheNextBurst) {
  LimitedDisk disk(timer_,
                   make_group(ThrottleLimit::kBpsWrite, {.average = 1'000'000, .max = 3'000'000}));
  start_many(disk, 8, IoKind::kWrite, 1'000'000);
  timer_.run_for(8s);
  ASSERT_EQ(disk.channel.waiting(), 0u);
  timer_.run_for(10s);
  disk.medium.bytes = 0;
  disk.keep(4, IoKind::kWrite, 4096);
  timer_.run_for(1s);
  EXPECT_NEAR(static_cast<double>(disk.medium.bytes), 3e6, 0.2e6);
  timer_.run_for(1s);
  EXPECT_NEAR(static_cast<double>(disk.medium.bytes), 4e6, 0.2e6);
}

// Groups.

struct Share {
  const char* name;
  ThrottleLimit limit;
  std::uint64_t rate;
  std::uint64_t length[2];
  unsigned depth[2];
};

class ThrottleShareTest : public ThrottleChannelTest,
                          public ::testing::WithParamInterface<Share> {};

TEST_P(ThrottleShareTest, TwoDisksHaveEqualSharesWithinFivePercent) {
  const Share& share = GetParam();
  const auto group = make_group(share.limit, {.average = share.rate});
  LimitedDisk one(timer_, group);
  LimitedDisk two(timer_, group);
  one.keep(share.depth[0], IoKind::kWrite, share.length[0]);
  two.keep(share.depth[1], IoKind::kWrite, share.length[1]);
  timer_.run_for(10s);
  const bool has_bytes = share.limit >= ThrottleLimit::kBpsTotal;
  const auto first = static_cast<double>(has_bytes ? one.medium.bytes : one.medium.operations);
  const auto second = static_cast<double>(has_bytes ? two.medium.bytes : two.medium.operations);
  const double expected = 10 * static_cast<double>(share.rate);
  EXPECT_NEAR(first, expected / 2, 0.05 * expected / 2);
  EXPECT_NEAR(second, expected / 2, 0.05 * expected / 2);
  EXPECT_NEAR(first + second, expected, 0.02 * expected);
}

INSTANTIATE_TEST_SUITE_P(
    Pairs, ThrottleShareTest,
    ::testing::Values(
        Share{"equal_iops", ThrottleLimit::kIopsTotal, 2000, {4096, 4096}, {32, 32}},
        Share{"iops_of_depth_1_and_128", ThrottleLimit::kIopsTotal, 2000, {4096, 4096}, {1, 128}},
        Share{"iops_of_small_and_large", ThrottleLimit::kIopsWrite, 2000, {512, kMiB}, {128, 2}},
        Share{"bytes_of_small_and_large",
              ThrottleLimit::kBpsTotal,
              50'000'000,
              {4096, kMiB},
              {32, 32}},
        Share{"bytes_of_depth_1_and_128",
              ThrottleLimit::kBpsTotal,
              50'000'000,
              {65536, 65536},
              {1, 128}},
        Share{"bytes_of_one_small_and_many_large",
              ThrottleLimit::kBpsWrite,
              50'000'000,
              {4096, kMiB},
              {1, 128}}),
    [](const auto& test) { return test.param.name; });

TEST_F(ThrottleChannelTest, TheShareOfAnIdleDiskGoesToTheOther) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1000});
  const LimitedDisk idle(timer_, group);
  LimitedDisk busy(timer_, group);
  busy.keep(16, IoKind::kRead, 4096);
  timer_.run_for(10s);
  EXPECT_NEAR(static_cast<double>(busy.medium.operations), 10000, 200);
}

TEST_F(ThrottleChannelTest, AnIdleDiskSavesNoShareForLater) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1000});
  LimitedDisk late(timer_, group);
  LimitedDisk busy(timer_, group);
  busy.keep(16, IoKind::kRead, 4096);
  timer_.run_for(10s);
  busy.medium.operations = 0;
  late.keep(16, IoKind::kRead, 4096);
  timer_.run_for(2s);
  EXPECT_NEAR(static_cast<double>(busy.medium.operations), 1000, 50);
  EXPECT_NEAR(static_cast<double>(late.medium.operations), 1000, 50);
}

TEST_F(ThrottleChannelTest, AGuestThatStallsForAMomentLosesNoShare) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1000});
  LimitedDisk bursty(timer_, group);
  LimitedDisk busy(timer_, group);
  busy.keep(32, IoKind::kRead, 4096);
  for (int i = 0; i < 100; ++i) {
    start_many(bursty, 20, IoKind::kRead);
    timer_.run_for(25ms);
    EXPECT_LE(bursty.channel.waiting(), 4u) << "it comes first, up to its share";
    timer_.run_for(15ms);
  }
}

TEST_F(ThrottleChannelTest, AStalledThreadHoldsUpNoOtherDisk) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1000});
  VirtualTimer stalled_timer;
  LimitedDisk stalled(stalled_timer, group);
  LimitedDisk busy(timer_, group);
  stalled.keep(128, IoKind::kRead, 4096);
  ASSERT_GT(stalled.channel.waiting(), 0u);
  busy.keep(8, IoKind::kRead, 4096);
  timer_.run_for(10s);
  EXPECT_NEAR(static_cast<double>(busy.medium.operations), 10000, 200);
}

// Order.

TEST_F(ThrottleChannelTest, RequestsOfAClassStartInOrder) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kBpsTotal, {.average = 10000}));
  std::vector<TestIo*> sent;
  for (const std::uint64_t length : {9000U, 512U, 4096U, 512U, 8192U, 512U}) {
    sent.push_back(&disk.start(IoKind::kWrite, length));
  }
  timer_.run_for(10s);
  EXPECT_EQ(disk.medium.started, sent);
}

TEST_F(ThrottleChannelTest, TheOldestOfTheClassesOfALimitIsTheNext) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 10}));
  std::vector<TestIo*> sent;
  for (const IoKind kind : {IoKind::kRead, IoKind::kWrite, IoKind::kRead, IoKind::kDiscard,
                            IoKind::kWrite, IoKind::kRead}) {
    sent.push_back(&disk.start(kind));
  }
  timer_.run_for(1s);
  EXPECT_EQ(disk.medium.started, sent);
}

TEST_F(ThrottleChannelTest, AnEarlierWakeUpOfAnotherClassIsNotMissed) {
  const auto group = make_group(ThrottleLimit::kIopsRead, {.average = 1});
  ThrottleLimits limits = group->limits();
  limits[ThrottleLimit::kIopsWrite] = {.average = 100};
  group->set_limits(limits);
  LimitedDisk disk(timer_, group);
  start_many(disk, 2, IoKind::kRead);
  start_many(disk, 6, IoKind::kWrite);
  const TestIo& write = disk.start(IoKind::kWrite);
  timer_.run_for(500ms);
  EXPECT_LE(wait_of(write), 30ms);
  EXPECT_EQ(disk.channel.waiting(), 1u) << "the read";
}

// Flushes and ranges.

TEST_F(ThrottleChannelTest, AFlushWaitsForAPeriodAtMost) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 1}));
  start_many(disk, 50, IoKind::kWrite);
  const TestIo& first = disk.start(IoKind::kFlush, 0);
  timer_.run_for(20ms);
  const TestIo& second = disk.start(IoKind::kFlush, 0);
  timer_.run_for(80ms);
  EXPECT_EQ(wait_of(first), ThrottleGroup::kPeriod);
  EXPECT_EQ(wait_of(second), ThrottleGroup::kPeriod);
  EXPECT_GT(disk.channel.waiting(), 40u) << "the writes";
}

TEST_F(ThrottleChannelTest, FlushesAreLimitedAsWrites) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsWrite, {.average = 100}));
  disk.keep(1, IoKind::kFlush, 0);
  timer_.run_for(10s);
  EXPECT_NEAR(static_cast<double>(disk.medium.operations), 1000, 20);
}

TEST_F(ThrottleChannelTest, RangesCountNoBytes) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kBpsTotal, {.average = 1000}));
  for (const IoKind kind : {IoKind::kDiscard, IoKind::kWriteZeroes, IoKind::kSecureErase}) {
    EXPECT_EQ(wait_of(disk.start(kind, 1024 * kMiB)), 0ns);
    EXPECT_EQ(wait_of(disk.start(kind, 1024 * kMiB)), 0ns);
  }
}

TEST_F(ThrottleChannelTest, ARangeCountsAnOperationForEachStartedMebibyte) {
  for (const IoKind kind : {IoKind::kDiscard, IoKind::kWriteZeroes, IoKind::kSecureErase}) {
    LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsWrite, {.average = 100}));
    disk.start(kind, 30 * kMiB + 1);  // 31 operations; 5 need no wait
    const TestIo& next = disk.start(IoKind::kWrite);
    timer_.run_for(1s);
    EXPECT_NEAR(std::chrono::duration<double>(wait_of(next)).count(), 0.26, 0.001);
  }
}

TEST_F(ThrottleChannelTest, AHugeRangeHoldsUpTheNextForASecondAtMost) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsWrite, {.average = 100}));
  disk.start(IoKind::kDiscard, 1024 * 1024 * kMiB);
  const TestIo& next = disk.start(IoKind::kWrite);
  timer_.run_for(2s);
  EXPECT_NEAR(std::chrono::duration<double>(wait_of(next)).count(), 0.95, 0.001);
}

// Changes.

TEST_F(ThrottleChannelTest, WaitingRequestsStartAtOnceWhenTheLimitIsRemoved) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1});
  LimitedDisk disk(timer_, group);
  start_many(disk, 64, IoKind::kRead);
  start_many(disk, 64, IoKind::kWrite);
  ASSERT_EQ(disk.channel.waiting(), 127u);
  group->set_limits({});
  disk.channel.reconsider();
  EXPECT_EQ(disk.channel.waiting(), 0u);
  EXPECT_EQ(timer_.sleepers(), 128u) << "only requests at the disk";
}

TEST_F(ThrottleChannelTest, AChangedLimitHoldsForWaitingRequests) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {.average = 1});
  LimitedDisk disk(timer_, group);
  disk.keep(128, IoKind::kRead, 4096);
  timer_.run_for(2s);
  for (const std::uint64_t rate : {1000U, 100U, 2000U}) {
    group->set_limits(make_limits(ThrottleLimit::kIopsTotal, {.average = rate}));
    disk.channel.reconsider();
    disk.medium.operations = 0;
    timer_.run_for(10s);
    const double expected = 10 * static_cast<double>(rate);
    EXPECT_NEAR(static_cast<double>(disk.medium.operations), expected, 0.02 * expected);
  }
}

TEST_F(ThrottleChannelTest, AnUnlimitedGroupMayBeLimitedWithRequestsInFlight) {
  const auto group = make_group(ThrottleLimit::kIopsTotal, {});
  LimitedDisk disk(timer_, group);
  disk.keep(32, IoKind::kWrite, 4096);
  timer_.run_for(10ms);
  EXPECT_GT(disk.medium.operations, 10000u);
  group->set_limits(make_limits(ThrottleLimit::kIopsTotal, {.average = 100}));
  disk.channel.reconsider();
  disk.medium.operations = 0;
  timer_.run_for(10s);
  EXPECT_NEAR(static_cast<double>(disk.medium.operations), 1000, 20);
  group->set_limits({});
  disk.channel.reconsider();
  disk.medium.operations = 0;
  timer_.run_for(10ms);
  EXPECT_GT(disk.medium.operations, 10000u);
}

TEST_F(ThrottleChannelTest, WhenEmptyReportsTheEndOfTheLastWait) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 10}));
  int calls = 0;
  disk.channel.when_empty([&] { ++calls; });
  EXPECT_EQ(calls, 1) << "none waits";
  start_many(disk, 3, IoKind::kRead);
  disk.channel.when_empty([&] { FAIL() << "it was replaced"; });
  disk.channel.when_empty([&] {
    ++calls;
    EXPECT_EQ(disk.medium.operations, 3u);
  });
  timer_.run_for(60ms);
  EXPECT_EQ(calls, 1);
  timer_.run_for(1s);
  EXPECT_EQ(calls, 2);
}

// Stops.

TEST_F(ThrottleChannelTest, LetThroughStartsAllInOrderAndNoneWaits) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 1}));
  std::vector<TestIo*> sent;
  for (int i = 0; i < 200; ++i)
    sent.push_back(&disk.start(i % 2 == 0 ? IoKind::kRead : IoKind::kWrite));
  disk.channel.let_through();
  EXPECT_EQ(disk.channel.waiting(), 0u);
  for (int i = 0; i < 10; ++i) sent.push_back(&disk.start(IoKind::kDiscard, 100 * kMiB));
  EXPECT_EQ(disk.medium.started, sent);
}

TEST_F(ThrottleChannelTest, RequestsThatWereLetThroughDelayTheNextForASecondAtMost) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 100}));
  start_many(disk, 1000, IoKind::kRead);
  disk.channel.let_through();
  disk.channel.throttle_again();
  const TestIo& next = disk.start(IoKind::kRead);
  timer_.run_for(2s);
  EXPECT_NEAR(std::chrono::duration<double>(wait_of(next)).count(), 1.0, 0.001);
}

TEST_F(ThrottleChannelTest, AFewThatWereLetThroughAreCounted) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 100}));
  start_many(disk, 25, IoKind::kRead);
  disk.channel.let_through();
  disk.channel.throttle_again();
  const TestIo& next = disk.start(IoKind::kRead);
  timer_.run_for(2s);
  EXPECT_NEAR(std::chrono::duration<double>(wait_of(next)).count(), 0.2, 0.001);
}

TEST_F(ThrottleChannelTest, NoTimerRunsWithoutAWaitingRequest) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 100}));
  EXPECT_EQ(timer_.sleepers(), 0u);
  start_many(disk, 20, IoKind::kRead);
  timer_.run_for(1s);
  EXPECT_EQ(timer_.sleepers(), 0u);
}

TEST_F(ThrottleChannelTest, StatisticsCountWaitsAndTheirTime) {
  LimitedDisk disk(timer_, make_group(ThrottleLimit::kIopsTotal, {.average = 100}));
  start_many(disk, 6, IoKind::kRead);
  EXPECT_EQ(disk.channel.throttle_statistics().throttled, 0u) << "the budget of a period";
  start_many(disk, 3, IoKind::kRead);
  timer_.run_for(1s);
  EXPECT_EQ(disk.channel.throttle_statistics().throttled, 3u);
  EXPECT_NEAR(static_cast<double>(disk.channel.throttle_statistics().wait_ns), 60e6, 1e3);
}

}  // namespace
}  // namespace guestio::disk
