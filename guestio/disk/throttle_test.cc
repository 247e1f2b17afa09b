// SPDX-License-Identifier: MIT
// Names and contradictions of limits, and the budget of a group.
#include "guestio/disk/throttle.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

namespace guestio::disk {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

ThrottleLimits with(ThrottleLimit limit, ThrottleRate rate) {
  ThrottleLimits limits;
  limits[limit] = rate;
  return limits;
}

TEST(ThrottleSettings, HaveTheNamesOfQemu) {
  const auto names = throttle_setting_names();
  EXPECT_EQ(names.size(), 18u);
  EXPECT_EQ(names[0], "iops-total");
  EXPECT_EQ(names[1], "iops-total-max");
  EXPECT_EQ(names[2], "iops-total-max-length");
  EXPECT_EQ(names[9], "bps-total");
  EXPECT_EQ(names[17], "bps-write-max-length");
}

TEST(ThrottleSettings, AreFoundByTheirNames) {
  ThrottleLimits limits;
  std::uint64_t value = 100;
  for (const std::string& name : throttle_setting_names()) {
    const auto setting = find_throttle_setting(name);
    ASSERT_TRUE(setting) << name;
    EXPECT_TRUE(name.starts_with(to_text(setting->limit))) << name;
    limits[setting->limit].*setting->value = value++;
  }
  EXPECT_EQ(limits[ThrottleLimit::kIopsTotal], (ThrottleRate{100, 101, 102}));
  EXPECT_EQ(limits[ThrottleLimit::kBpsRead], (ThrottleRate{112, 113, 114}));
  EXPECT_EQ(limits[ThrottleLimit::kBpsWrite], (ThrottleRate{115, 116, 117}));
  for (const char* const name : {"", "iops", "iops-total-", "bps-total-length", "limit-group"}) {
    EXPECT_FALSE(find_throttle_setting(name)) << name;
  }
}

TEST(ThrottleConflicts, NameTheSettings) {
  EXPECT_EQ(find_conflict({}), "");
  EXPECT_EQ(find_conflict(with(ThrottleLimit::kIopsRead, {.average = 5, .max = 5})), "");
  EXPECT_EQ(find_conflict(with(ThrottleLimit::kIopsRead, {.average = 0, .max = 5})),
            "iops-read-max needs iops-read");
  EXPECT_EQ(find_conflict(with(ThrottleLimit::kBpsWrite, {.average = 6, .max = 5})),
            "bps-write-max is below bps-write (5 and 6)");
  EXPECT_EQ(find_conflict(with(ThrottleLimit::kBpsTotal, {.average = 6, .max_seconds = 2})),
            "bps-total-max-length needs bps-total-max");
}

TEST(ThrottleConflicts, ATotalExcludesItsParts) {
  ThrottleLimits limits = with(ThrottleLimit::kIopsTotal, {.average = 5});
  limits[ThrottleLimit::kBpsRead].average = 5;
  limits[ThrottleLimit::kBpsWrite].average = 5;
  EXPECT_EQ(find_conflict(limits), "");
  limits[ThrottleLimit::kIopsWrite].average = 5;
  EXPECT_EQ(find_conflict(limits),
            "iops-write does not go with iops-total: leave one of the two out");
  limits[ThrottleLimit::kIopsTotal].average = 0;
  limits[ThrottleLimit::kBpsTotal].average = 5;
  EXPECT_EQ(find_conflict(limits), "bps-read does not go with bps-total: leave one of the two out");
}

struct PlainIo final : Io {
  PlainIo(IoKind its_kind, std::uint64_t its_length) {
    kind = its_kind;
    length = its_length;
  }
  void on_done(Result<> /*result*/) noexcept override {}
};

class ThrottleGroupTest : public ::testing::Test {
 protected:
  void limit(ThrottleLimit limit, ThrottleRate rate) { group_.set_limits(with(limit, rate)); }
  nanoseconds try_start(IoKind kind, std::uint64_t length = 4096) {
    return group_.try_start(member_, PlainIo(kind, length), now_);
  }
  /// Starts requests until one has to wait. Returns their number.
  int start_until_wait(IoKind kind, std::uint64_t length = 4096) {
    int started = 0;
    while (try_start(kind, length) == 0ns) ++started;
    return started;
  }

  std::chrono::steady_clock::time_point now_{1h};
  ThrottleGroup group_{{}, [this] { return now_; }};
  ThrottleGroup::Member member_{group_};
};

TEST_F(ThrottleGroupTest, OnlyClassesOfALimitAreLimited) {
  EXPECT_FALSE(group_.is_limited());
  struct Row {
    ThrottleLimit limit;
    bool is_limited[kThrottleClasses];  // read, write, range, flush
  };
  for (const Row& row : {Row{ThrottleLimit::kIopsTotal, {true, true, true, true}},
                         Row{ThrottleLimit::kIopsRead, {true, false, false, false}},
                         Row{ThrottleLimit::kIopsWrite, {false, true, true, true}},
                         Row{ThrottleLimit::kBpsTotal, {true, true, false, false}},
                         Row{ThrottleLimit::kBpsRead, {true, false, false, false}},
                         Row{ThrottleLimit::kBpsWrite, {false, true, false, false}}}) {
    limit(row.limit, {.average = 1});
    EXPECT_TRUE(group_.is_limited());
    for (std::size_t kind = 0; kind < kThrottleClasses; ++kind) {
      EXPECT_EQ(group_.is_limited(static_cast<ThrottleClass>(kind)), row.is_limited[kind])
          << to_text(row.limit) << ", " << kind;
    }
  }
  group_.set_limits({});
  EXPECT_FALSE(group_.is_limited());
}

TEST_F(ThrottleGroupTest, TheWorkOfAPeriodStartsAtOnce) {
  limit(ThrottleLimit::kIopsTotal, {.average = 1000});
  EXPECT_EQ(start_until_wait(IoKind::kRead), 51) << "50, and one that overdraws";
  EXPECT_NEAR(static_cast<double>(try_start(IoKind::kRead).count()), 1e6, 2);
  now_ += 10ms;
  EXPECT_EQ(start_until_wait(IoKind::kWrite), 10);
  now_ += 1h;
  EXPECT_EQ(start_until_wait(IoKind::kFlush, 0), 51) << "an idle hour is no more than a period";
}

TEST_F(ThrottleGroupTest, ARequestOfAnySizePassesAnyLimitOnce) {
  limit(ThrottleLimit::kBpsTotal, {.average = 1000});
  EXPECT_EQ(start_until_wait(IoKind::kRead, 1'000'000), 1);
  now_ += 999s;
  EXPECT_EQ(start_until_wait(IoKind::kRead, 1), 0);
  now_ += 1s;
  EXPECT_EQ(start_until_wait(IoKind::kRead, 1'000'000), 1);
}

TEST_F(ThrottleGroupTest, TheWaitsOfALongDebtAreAnHourAtMost) {
  limit(ThrottleLimit::kBpsTotal, {.average = 1});
  EXPECT_EQ(start_until_wait(IoKind::kRead, std::uint64_t{1} << 62), 1);
  EXPECT_LE(try_start(IoKind::kRead), 1h + 1ns);
  EXPECT_GT(try_start(IoKind::kRead), 0ns);
}

TEST_F(ThrottleGroupTest, DebtsStayWithAHigherLimit) {
  limit(ThrottleLimit::kBpsTotal, {.average = 1000});
  ASSERT_EQ(start_until_wait(IoKind::kRead, 10050), 1);
  EXPECT_NEAR(static_cast<double>(try_start(IoKind::kRead).count()), 10e9, 2);
  limit(ThrottleLimit::kBpsTotal, {.average = 2000});
  EXPECT_NEAR(static_cast<double>(try_start(IoKind::kRead).count()), 5e9, 2);
  group_.set_limits({});
  limit(ThrottleLimit::kBpsTotal, {.average = 2000});
  EXPECT_EQ(try_start(IoKind::kRead), 0ns) << "a new limit has none";
}

TEST_F(ThrottleGroupTest, ALowerLimitMakesNoDebtLonger) {
  limit(ThrottleLimit::kIopsTotal, {.average = 1'000'000});
  ASSERT_EQ(start_until_wait(IoKind::kRead), 50'001);
  limit(ThrottleLimit::kIopsTotal, {.average = 100});
  EXPECT_LE(try_start(IoKind::kRead), 2us);
  group_.start_now(member_, PlainIo(IoKind::kDiscard, std::uint64_t{1} << 40), now_);
  limit(ThrottleLimit::kIopsTotal, {.average = 10});
  EXPECT_NEAR(static_cast<double>(try_start(IoKind::kRead).count()), 1e9, 2e3);
}

TEST_F(ThrottleGroupTest, AClockThatGoesBackLeaksNothing) {
  limit(ThrottleLimit::kIopsTotal, {.average = 1000});
  start_until_wait(IoKind::kRead);
  now_ -= 10s;
  EXPECT_NEAR(static_cast<double>(try_start(IoKind::kRead).count()), 1e6, 2);
  now_ += 10s;
  EXPECT_GT(try_start(IoKind::kRead), 0ns);
}

TEST_F(ThrottleGroupTest, ManyThreadsTogetherStartWhatTheLimitAllows) {
  limit(ThrottleLimit::kIopsTotal, {.average = 100'000});
  std::atomic<int> started{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      ThrottleGroup::Member member(group_);
      // Refused ones are late at once: no member yields to them.
      for (int attempt = 0; attempt < 5000; ++attempt) {
        if (group_.try_start(member, PlainIo(IoKind::kRead, 512), now_) == 0ns) ++started;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(started, 5001);
}

}  // namespace
}  // namespace guestio::disk
