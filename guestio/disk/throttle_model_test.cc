// SPDX-License-Identifier: MIT
// Any requests, against the definition of a limit: no time between two starts has more than the
// rate and the size of the bucket.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "guestio/disk/test/limited_disk.h"

namespace guestio::disk {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;
using test::LimitedDisk;
using test::TestIo;
using testing::VirtualTimer;

struct Bound {
  ThrottleLimit limit;
  double rate;  // a nanosecond
  double size;
};

double units_of(const TestIo& io, ThrottleLimit limit) {
  const bool is_read = io.kind == IoKind::kRead;
  const bool is_range = io.kind == IoKind::kDiscard;
  if ((limit == ThrottleLimit::kIopsRead || limit == ThrottleLimit::kBpsRead) && !is_read) return 0;
  if ((limit == ThrottleLimit::kIopsWrite || limit == ThrottleLimit::kBpsWrite) && is_read)
    return 0;
  if (limit >= ThrottleLimit::kBpsTotal) return is_range ? 0 : static_cast<double>(io.length);
  return is_range ? std::ceil(static_cast<double>(io.length) / 1048576) : 1;
}

/// The most that the requests before `index` are above the bound, in nanoseconds.
double excess_at(const std::vector<TestIo*>& started, std::size_t index, const Bound& bound) {
  double most = -1e18;
  double units = 0;
  for (std::size_t first = index; first-- > 0;) {
    units += units_of(*started[first], bound.limit);
    const auto passed =
        static_cast<double>((started[index]->started - started[first]->started).count());
    most = std::max(most, (units - bound.size) / bound.rate - passed);
  }
  return most;
}

class ThrottleModelTest : public ::testing::TestWithParam<unsigned> {
 protected:
  std::uint64_t random(std::uint64_t low, std::uint64_t high) {
    return std::uniform_int_distribution<std::uint64_t>(low, high)(random_);
  }
  /// One or two random limits that go together.
  std::vector<Bound> make_bounds(ThrottleLimits& limits) {
    std::vector<Bound> bounds;
    const auto add = [&](ThrottleLimit limit, std::uint64_t rate) {
      limits[limit] = {.average = rate};
      const double a_nanosecond = static_cast<double>(rate) / 1e9;
      bounds.push_back({limit, a_nanosecond, a_nanosecond * 50e6});
    };
    add(static_cast<ThrottleLimit>(random(0, 2)), random(50, 2000));
    if (random(0, 1) == 0)
      add(static_cast<ThrottleLimit>(random(3, 5)), random(100'000, 9'000'000));
    return bounds;
  }
  TestIo& start_any(LimitedDisk& disk) {
    constexpr std::array kKinds = {IoKind::kRead, IoKind::kWrite, IoKind::kDiscard};
    const IoKind kind = kKinds[random(0, 2)];
    return disk.start(kind, 512 * random(1, kind == IoKind::kDiscard ? 8192 : 128));
  }

  std::mt19937_64 random_{GetParam()};
  VirtualTimer timer_;
};

TEST_P(ThrottleModelTest, EachRequestStartsAsSoonAsTheLimitsAllow) {
  ThrottleLimits limits;
  const std::vector<Bound> bounds = make_bounds(limits);
  const auto group = std::make_shared<ThrottleGroup>(limits, [this] { return timer_.now(); });
  LimitedDisk disk(timer_, group);
  for (int i = 0; i < 400; ++i) {
    start_any(disk);
    timer_.run_for(nanoseconds(random(0, 3) == 0 ? random(0, 40'000'000) : random(0, 100'000)));
  }
  timer_.run_for(3600s);
  const std::vector<TestIo*>& started = disk.medium.started;
  ASSERT_EQ(started.size(), 400u);
  std::array<VirtualTimer::Time, kThrottleClasses> last{};
  for (std::size_t i = 0; i < started.size(); ++i) {
    const TestIo& io = *started[i];
    double excess = -1e18;
    for (const Bound& bound : bounds) {
      if (units_of(io, bound.limit) != 0) excess = std::max(excess, excess_at(started, i, bound));
    }
    EXPECT_LE(excess, 1) << "too early: " << i;
    // A wait ends when the last limit allows it, or with that of the request before it.
    VirtualTimer::Time& before = last[static_cast<std::size_t>(throttle_class(io.kind))];
    if (io.started != io.arrived && io.started != before) {
      EXPECT_GE(excess, -3) << "too late: " << i;
    }
    before = io.started;
  }
}

TEST_P(ThrottleModelTest, DisksOfAGroupDoNotExceedTheLimitsTogether) {
  ThrottleLimits limits;
  const std::vector<Bound> bounds = make_bounds(limits);
  const auto group = std::make_shared<ThrottleGroup>(limits, [this] { return timer_.now(); });
  std::deque<LimitedDisk> disks;
  for (int i = 0; i < 3; ++i) disks.emplace_back(timer_, group);
  std::vector<TestIo*> started;
  for (LimitedDisk& disk : disks) disk.medium.log = &started;
  for (int i = 0; i < 400; ++i) {
    LimitedDisk& disk = disks[random(0, 2)];
    disk.late_timer.lateness = nanoseconds(random(0, 2'000'000));
    start_any(disk);
    timer_.run_for(nanoseconds(random(0, 3) == 0 ? random(0, 40'000'000) : random(0, 100'000)));
  }
  timer_.run_for(3600s);
  ASSERT_EQ(started.size(), 400u);
  for (std::size_t i = 0; i < started.size(); ++i) {
    for (const Bound& bound : bounds) {
      if (units_of(*started[i], bound.limit) == 0) continue;
      EXPECT_LE(excess_at(started, i, bound), 1) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ThrottleModelTest, ::testing::Range(1U, 41U));

}  // namespace
}  // namespace guestio::disk
