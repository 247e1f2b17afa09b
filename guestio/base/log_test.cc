// SPDX-License-Identifier: MIT
#include "guestio/base/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <map>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "guestio/base/check.h"
#include "guestio/base/unique_fd.h"
#include "testing/rounds.h"

namespace guestio::log {
namespace {

using std::chrono::seconds;

constexpr seconds kLong(60);

/// A sink that records lines and can block in one.
class KeptLines {
 public:
  KeptLines() {
    EXPECT_TRUE(set_sink([this](const Line& line) {
      if (line.text == "stand still") {
        stands_still_.release();
        may_resume_.acquire();
      }
      times_.push_back(line.time);
      texts_.emplace_back(line.text);
    }));
  }
  KeptLines(const KeptLines&) = delete;
  KeptLines& operator=(const KeptLines&) = delete;
  ~KeptLines() { (void)set_sink({}); }

  void stand_still() {
    info("stand still");
    stands_still_.acquire();
  }
  void resume() { may_resume_.release(); }
  // After flush().
  [[nodiscard]] const std::vector<std::string>& texts() const { return texts_; }
  [[nodiscard]] const auto& times() const { return times_; }

 private:
  std::binary_semaphore stands_still_{0};
  std::binary_semaphore may_resume_{0};
  std::vector<std::string> texts_;
  std::vector<std::chrono::system_clock::time_point> times_;
};

/// Replaces standard error by a full pipe. Restores it at the end.
class FullStandardError {
 public:
  FullStandardError() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    reader_.reset(ends[0]);
    const UniqueFd writer(ends[1]);
    EXPECT_EQ(::fcntl(writer.get(), F_SETFL, O_NONBLOCK), 0);
    const std::array<char, 4096> bytes{};
    while (::write(writer.get(), bytes.data(), bytes.size()) > 0) {
    }
    EXPECT_EQ(::fcntl(writer.get(), F_SETFL, 0), 0);
    EXPECT_EQ(::dup2(writer.get(), STDERR_FILENO), STDERR_FILENO);
  }
  FullStandardError(const FullStandardError&) = delete;
  FullStandardError& operator=(const FullStandardError&) = delete;
  ~FullStandardError() { (void)::dup2(before_.get(), STDERR_FILENO); }

  /// Reads until `text` arrives. Returns everything read.
  [[nodiscard]] std::string read_until(const std::string& text) const {
    std::string all;
    std::array<char, 4096> bytes;
    while (all.find(text) == std::string::npos) {
      const ssize_t size = ::read(reader_.get(), bytes.data(), bytes.size());
      if (size <= 0) break;
      all.append(bytes.data(), static_cast<std::size_t>(size));
    }
    return all;
  }

 private:
  const UniqueFd before_{::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)};
  UniqueFd reader_;
};

/// Makes thread creation fail: no address space holds such a stack.
void refuse_threads() {
  pthread_attr_t attributes;
  ASSERT_EQ(::pthread_attr_init(&attributes), 0);
  ASSERT_EQ(::pthread_attr_setstacksize(&attributes, std::size_t{1} << 60), 0);
  ASSERT_EQ(::pthread_setattr_default_np(&attributes), 0);
  ::pthread_attr_destroy(&attributes);
}

TEST(RateLimit, AdmitsABurstThenCountsSuppressedLines) {
  RateLimit limit(2, seconds(10));
  const RateLimit::Clock::time_point start{seconds(100)};
  EXPECT_TRUE(limit.admit(start).allowed);
  EXPECT_TRUE(limit.admit(start).allowed);
  EXPECT_FALSE(limit.admit(start).allowed);
  EXPECT_FALSE(limit.admit(start + seconds(9)).allowed);
  const auto verdict = limit.admit(start + seconds(10));
  EXPECT_TRUE(verdict.allowed);
  EXPECT_EQ(verdict.suppressed, 2u);
}

TEST(RateLimit, NeverHoldsMoreTokensThanItsBurst) {
  RateLimit limit(2, seconds(1));
  const RateLimit::Clock::time_point start{seconds(100)};
  EXPECT_TRUE(limit.admit(start).allowed);
  const auto later = start + seconds(1000);
  EXPECT_TRUE(limit.admit(later).allowed);
  EXPECT_TRUE(limit.admit(later).allowed);
  EXPECT_FALSE(limit.admit(later).allowed);
}

TEST(Log, DropsLinesBelowItsLevel) {
  set_level(Level::kWarning);
  EXPECT_FALSE(enabled(Level::kInfo));
  EXPECT_TRUE(enabled(Level::kError));
  set_level(Level::kInfo);
  EXPECT_TRUE(enabled(Level::kInfo));
}

TEST(Log, WritesOneLineToStandardError) {
  testing::internal::CaptureStderr();
  warning("disk {} is gone", 7);
  EXPECT_TRUE(flush(kLong));
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("guestio warning: disk 7 is gone\n"), std::string::npos) << text;
}

TEST(Log, AFullQueueReportsItsDroppedLinesInTheirPlace) {
  KeptLines lines;
  lines.stand_still();
  for (std::size_t i = 0; i < kMaxQueuedLines + 7; ++i) info("line {}", i);
  lines.resume();
  ASSERT_TRUE(flush(kLong));
  info("later");
  ASSERT_TRUE(flush(kLong));
  ASSERT_EQ(lines.texts().size(), kMaxQueuedLines + 3);
  EXPECT_EQ(lines.texts()[1], "line 0");
  EXPECT_EQ(lines.texts()[kMaxQueuedLines], fmt::format("line {}", kMaxQueuedLines - 1));
  EXPECT_EQ(lines.texts()[kMaxQueuedLines + 1], "7 log lines dropped: the sink is too slow");
  EXPECT_EQ(lines.texts()[kMaxQueuedLines + 2], "later");
}

TEST(Log, ALineHasTheTimeOfItsEvent) {
  KeptLines lines;
  lines.stand_still();
  const auto before = std::chrono::system_clock::now();
  info("event");
  const auto after = std::chrono::system_clock::now();
  lines.resume();
  ASSERT_TRUE(flush(kLong));
  ASSERT_EQ(lines.texts().back(), "event");
  EXPECT_GE(lines.times().back(), before);
  EXPECT_LE(lines.times().back(), after);
}

TEST(Log, LinesOfManyThreadsKeepTheirOrderAndAreDeliveredOrCounted) {
  constexpr int kThreads = 4;
  constexpr int kLines = 5000;
  std::map<int, int> next;
  std::uint64_t delivered = 0;
  std::uint64_t dropped = 0;
  bool is_ordered = true;
  ASSERT_TRUE(set_sink([&](const Line& line) {
    int thread = 0;
    int number = 0;
    if (std::sscanf(std::string(line.text).c_str(), "thread %d line %d", &thread, &number) != 2) {
      dropped += std::strtoull(std::string(line.text).c_str(), nullptr, 10);
      return;
    }
    is_ordered = is_ordered && number >= next[thread];
    next[thread] = number + 1;
    ++delivered;
  }));
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([thread] {
        for (int i = 0; i < kLines; ++i) info("thread {} line {}", thread, i);
      });
    }
  }
  ASSERT_TRUE(flush(kLong));
  ASSERT_TRUE(set_sink({}));
  EXPECT_TRUE(is_ordered);
  EXPECT_EQ(delivered + dropped, std::uint64_t{kThreads} * kLines);
}

TEST(Log, ASinkIsNotCalledAfterItsReset) {
  std::binary_semaphore is_called{0};
  std::binary_semaphore may_return{0};
  bool has_returned = false;
  int calls = 0;
  ASSERT_TRUE(set_sink([&](const Line&) {
    ++calls;
    is_called.release();
    may_return.acquire();
    has_returned = true;
  }));
  info("one");
  is_called.acquire();
  const std::jthread releasing([&] { may_return.release(); });
  ASSERT_TRUE(set_sink({}));
  EXPECT_TRUE(has_returned) << "the running call has ended";
  testing::internal::CaptureStderr();
  info("two");
  EXPECT_TRUE(flush(kLong));
  EXPECT_NE(testing::internal::GetCapturedStderr().find("two"), std::string::npos);
  EXPECT_EQ(calls, 1);
}

TEST(Log, ASinkMayResetItself) {
  int calls = 0;
  ASSERT_TRUE(set_sink([&](const Line&) {
    ++calls;
    (void)set_sink({});
  }));
  testing::internal::CaptureStderr();
  info("to the sink");
  EXPECT_TRUE(flush(kLong));
  info("to standard error");
  EXPECT_TRUE(flush(kLong));
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("to the sink"), std::string::npos) << text;
  EXPECT_NE(text.find("to standard error"), std::string::npos) << text;
  EXPECT_EQ(calls, 1);
}

TEST(Log, AnOverlongLineIsTruncated) {
  KeptLines lines;
  write(Level::kInfo, std::string(3 * kMaxLineBytes, 'x'));
  ASSERT_TRUE(flush(kLong));
  EXPECT_EQ(lines.texts().back(), std::string(kMaxLineBytes, 'x'));
}

TEST(Log, ABlockedReaderOfStandardErrorBlocksNoWriterAndGetsTheCountOfDroppedLines) {
  const FullStandardError full;
  for (std::size_t i = 0; i < 3 * kMaxQueuedLines; ++i) info("line {}", i);
  EXPECT_FALSE(flush(std::chrono::milliseconds(1)));
  const std::string text = full.read_until("the reader of standard error is too slow\n");
  EXPECT_NE(text.find("log lines dropped"), std::string::npos) << text;
  EXPECT_TRUE(flush(kLong));
}

TEST(Log, AChildProcessInheritsNoLines) {
  if (kIsThreadSanitized) GTEST_SKIP() << "this sanitizer allows no threads after fork()";
  KeptLines lines;
  lines.stand_still();
  info("the parent's");
  const pid_t child = ::fork();
  if (child == 0) {
    std::vector<std::string> heard;
    const auto set = set_sink([&](const Line& line) { heard.emplace_back(line.text); });
    info("the child's");
    const bool is_flushed = flush(kLong);
    ::_exit(set && is_flushed && heard == std::vector<std::string>{"the child's"} ? 0 : 1);
  }
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  lines.resume();
  ASSERT_TRUE(flush(kLong));
  EXPECT_EQ(lines.texts(), (std::vector<std::string>{"stand still", "the parent's"}));
}

class LogDeathTest : public testing::Test {
 protected:
  // In a fresh process, because it starts threads.
  LogDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(LogDeathTest, ExitDeliversTheLastLines) {
  EXPECT_EXIT(
      {
        for (int i = 0; i < 100; ++i) info("line {}", i);
        std::exit(0);
      },
      testing::ExitedWithCode(0), "line 99\n");
}

TEST_F(LogDeathTest, ExitDoesNotWaitForABlockedReader) {
  EXPECT_EXIT(
      {
        const FullStandardError full;
        for (std::size_t i = 0; i < 3 * kMaxQueuedLines; ++i) info("line {}", i);
        std::exit(0);
      },
      testing::ExitedWithCode(0), "");
}

TEST_F(LogDeathTest, AFailedCheckAbortsWithoutAReaderOfStandardError) {
  EXPECT_EXIT(
      {
        const FullStandardError full;
        info("a line that waits");
        GUESTIO_CHECK(full.read_until("").size() == 1, "the impossible");
      },
      testing::KilledBySignal(SIGABRT), "");
}

TEST_F(LogDeathTest, AFailedCheckComesAfterTheQueuedLines) {
  EXPECT_EXIT(
      {
        info("the previous line");
        GUESTIO_CHECK(false, "the impossible");
      },
      testing::KilledBySignal(SIGABRT), "the previous line\n.*expected the impossible");
}

TEST_F(LogDeathTest, WithoutALogThreadCallersWriteTheirLines) {
  EXPECT_EXIT(
      {
        refuse_threads();
        const bool is_refused = !start() && !set_sink([](const Line&) {});
        info("without a thread");
        std::exit(is_refused ? 0 : 1);
      },
      testing::ExitedWithCode(0), "guestio info: without a thread\n");
}

}  // namespace
}  // namespace guestio::log
