// SPDX-License-Identifier: MIT
// Programs with fewer threads than they need.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

/// All files in a folder for an unprivileged user: the process limit does not bind root.
class ThreadLimitTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kIsThreadSanitized) GTEST_SKIP() << "the sanitizer starts a thread of its own";
    std::string pattern = "/tmp/guestio-limit-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    ASSERT_EQ(::chmod(folder_.c_str(), 0755), 0);
    for (const char* program : {kBackendProgram, kLoadProgram}) {
      const auto copy = folder_ / std::filesystem::path(program).filename();
      std::filesystem::copy_file(program, copy);
      ASSERT_EQ(::chmod(copy.c_str(), 0755), 0);
    }
    if (::getuid() == 0) {
      ASSERT_EQ(::chown(folder_.c_str(), user_, user_), 0);
    }
  }
  ~ThreadLimitTest() override {
    std::error_code ignored;
    if (!folder_.empty()) std::filesystem::remove_all(folder_, ignored);
  }

  /// The command line of a program under a user without other processes.
  [[nodiscard]] std::vector<std::string> as_user(std::vector<std::string> words) const {
    words.front() = folder_ / std::filesystem::path(words.front()).filename();
    // LeakSanitizer needs a process of its own at exit.
    words.insert(words.begin(), {"/usr/bin/env", "ASAN_OPTIONS=detect_leaks=0"});
    if (::getuid() != 0) return words;
    const std::string user = std::to_string(user_);
    words.insert(words.begin(),
                 {"/usr/bin/setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups"});
    return words;
  }
  /// The same with a limit of `threads` for all processes of the user.
  [[nodiscard]] std::vector<std::string> limited(std::size_t threads,
                                                 std::vector<std::string> words) const {
    words = as_user(std::move(words));
    const auto program = std::ranges::find(words, "/usr/bin/env");
    words.insert(program, {"/usr/bin/prlimit", "--nproc=" + std::to_string(threads)});
    return words;
  }
  static Outcome run_words(const std::vector<std::string>& words) {
    testing::ChildProcess child(words);
    return {child.wait().value_or(-1), child.output()};
  }
  [[nodiscard]] std::vector<std::string> serve(const std::string& socket) const {
    return {kBackendProgram,
            "--socket-path",
            socket,
            "--blk-file",
            "null:16M",
            "--num-queues",
            "4",
            "--threads",
            "2"};
  }
  static std::size_t threads_of(const testing::ChildProcess& process) {
    const std::filesystem::directory_iterator tasks("/proc/" + std::to_string(process.pid()) +
                                                    "/task");
    return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
  }

  const uid_t user_ = 61000 + static_cast<uid_t>(::getpid()) % 4000;
  std::filesystem::path folder_;
};

TEST_F(ThreadLimitTest, ABackendWithoutAThreadReportsItAndExits) {
  const std::string socket = folder_ / "s";
  // Beside the main thread it needs one for the log and two for the queues.
  for (const std::size_t threads : {1U, 2U, 3U}) {
    const Outcome outcome = run_words(limited(threads, serve(socket)));
    expect_diagnostic(outcome, "cannot start: start a thread");
    EXPECT_FALSE(std::filesystem::exists(socket));
  }
  testing::ChildProcess enough(limited(4, serve(socket)));
  EXPECT_TRUE(enough.wait_for_output("ready ")) << enough.output();
  enough.send_signal(SIGTERM);
  EXPECT_EQ(enough.wait(), 0) << enough.output();
}

TEST_F(ThreadLimitTest, ATakeoverWithoutAThreadChangesNothing) {
  const std::string control = folder_ / "control";
  const std::string socket = folder_ / "s";
  auto words = serve(socket);
  words.insert(words.end(), {"--control", control});
  testing::ChildProcess before(as_user(words));
  ASSERT_TRUE(before.wait_for_output("ready ")) << before.output();
  auto guest = testing::BlkGuest::connect(socket);
  ASSERT_TRUE(guest.has_value()) << before.output();
  for (const std::size_t more : {1U, 2U, 3U}) {
    const Outcome outcome = run_words(limited(
        threads_of(before) + more, {kBackendProgram, "--takeover", control, "--threads", "8"}));
    EXPECT_EQ(outcome.status, 2) << outcome.output;
    EXPECT_NE(outcome.output.find("start a thread"), std::string::npos) << outcome.output;
    EXPECT_EQ((*guest)->read(0, 4096).status, 0) << before.output();
  }
  EXPECT_TRUE(before.is_running()) << before.output();
  before.send_signal(SIGTERM);
  EXPECT_EQ(before.wait(), 0) << before.output();
}

TEST_F(ThreadLimitTest, ALoadWithoutAThreadReportsItAndExits) {
  const std::string socket = folder_ / "s";
  testing::ChildProcess backend(as_user(serve(socket)));
  ASSERT_TRUE(backend.wait_for_output("ready ")) << backend.output();
  for (const char* command : {"run", "verify"}) {
    for (const std::size_t more : {1U, 2U, 3U}) {
      const Outcome outcome =
          run_words(limited(threads_of(backend) + more,
                            {kLoadProgram, command, "--socket-path", socket, "--numjobs", "4"}));
      expect_diagnostic(outcome, "start a thread");
    }
  }
  backend.send_signal(SIGTERM);
  EXPECT_EQ(backend.wait(), 0) << backend.output();
}

}  // namespace
}  // namespace guestio::tests
