// SPDX-License-Identifier: MIT
// guestio-blk is killed at random moments under verified load and restarted.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <random>
#include <regex>
#include <vector>

#include "testing/nbd_server.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// How often the backend is killed; `./dev soak` sets more.
unsigned rounds(unsigned usual) {
  const char* const text = std::getenv("GUESTIO_CRASH_ROUNDS");
  const long requested = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
  return requested > 0 ? static_cast<unsigned>(requested) : usual;
}

/// The number of backends guestio-load reports to have continued with.
unsigned successors(const std::string& output) {
  std::smatch match;
  const bool found = std::regex_search(output, match, std::regex("reconnects: (\\d+)"));
  return found ? static_cast<unsigned>(std::stoul(match[1])) : 0;
}

/// The options of guestio-load for a ring kind, more of guestio-blk, and where the disk is.
struct Kind {
  const char* name;
  std::vector<std::string> options;
  std::vector<std::string> more = {};
  bool is_on_nbd = false;
  unsigned rounds = 10;
};

class CrashTest : public BackendTest, public ::testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    if (!GetParam().is_on_nbd) return;
    server_ = testing::NbdServer::nbdkit({"file", "IMAGE"});
    if (!server_) GTEST_SKIP() << "nbdkit is not installed";
    // nbdkit 1.32 stops with a failed assertion when a client dies within a request while it sends
    // a reply.
    ASSERT_TRUE(server_->supervise());
    image_ = server_->uri();
  }
  /// Starts guestio-blk. Returns the time until it serves.
  milliseconds restart() {
    const auto since = Clock::now();
    EXPECT_TRUE(wait_until([this] { return attempt_restart(); })) << backend_->output();
    return std::chrono::duration_cast<milliseconds>(Clock::now() - since);
  }
  bool attempt_restart() {
    std::vector<std::string> words = {kBackendProgram, "--socket-path", socket_, "--blk-file",
                                      image_,          "--num-queues",  "2",     "--control",
                                      control_,        "--verbose"};
    words.insert(words.end(), GetParam().more.begin(), GetParam().more.end());
    backend_ = std::make_unique<testing::ChildProcess>(words);
    return backend_->wait_for_output("after the start");
  }
  /// Waits until the backend has completed so many requests or the load has finished.
  void wait_for_requests(std::uint64_t requests) {
    ASSERT_TRUE(backend_->wait_for_output("queue 1: runs"))
        << load_->output() << backend_->output();
    EXPECT_TRUE(wait_until([&] { return !load_->is_running() || requests_done() >= requests; }))
        << load_->output() << backend_->output();
  }
  /// Waits until the backend has logged so much, possibly before the load has connected to it.
  void wait_for_lines(std::ptrdiff_t lines) {
    EXPECT_TRUE(wait_until([&] {
      const std::string output = backend_->output();
      return std::ranges::count(output, '\n') >= lines || output.contains("queue 1: runs") ||
             !load_->is_running();
    })) << backend_->output();
  }

  void start_load(const std::string& operations) {
    std::vector<std::string> words = {kLoadProgram, "verify",    "--reconnect", "--socket-path",
                                      socket_,      "--numjobs", "2",           "--iodepth",
                                      "32",         "--seed",    "11",          "--ops",
                                      operations};
    words.insert(words.end(), GetParam().options.begin(), GetParam().options.end());
    load_.emplace(words);
  }
  void finish_load(std::chrono::seconds limit) {
    EXPECT_EQ(load_->wait(limit), 0) << load_->output() << backend_->output();
    successors_ += successors(load_->output());
    std::cout << load_->output();
  }

  std::unique_ptr<testing::NbdServer> server_;  // optional
  std::optional<testing::ChildProcess> load_;
  unsigned successors_ = 0;
};

TEST_P(CrashTest, Rule41And43EveryAcknowledgedWriteSurvivesAndEveryRequestCompletesOnce) {
  restart();
  const unsigned kills = rounds(GetParam().rounds);
  // On most machines more than completes before the last kill.
  const std::string total_operations = operations(20000 + 3000 * kills);
  const auto limit = std::chrono::seconds(200 + 4 * kills);
  start_load(total_operations);
  std::mt19937 engine(17);
  std::vector<milliseconds> starts;
  for (unsigned i = 0; i < kills; ++i) {
    // Every other backend is killed under load, the rest during start, even before the load
    // connects.
    if (i % 2 == 0) {
      wait_for_requests(std::stoul(operations(1 + static_cast<unsigned>(engine() % 2000))));
    } else {
      wait_for_lines(static_cast<std::ptrdiff_t>(engine() % 12));
    }
    if (!load_->is_running()) {
      finish_load(limit);
      start_load(total_operations);
    }
    backend_->send_signal(SIGKILL);
    ASSERT_EQ(backend_->wait(), 128 + SIGKILL);
    starts.push_back(restart());
  }
  finish_load(limit);
  // The load does not count a backend killed during negotiation; on a busy machine that may be all
  // but the last.
  EXPECT_GE(successors_, 1U);
  std::ranges::sort(starts);
  // The goal is 20 ms. The time on a busy machine is not ours to judge, but the backend recovers.
  EXPECT_LT(starts[starts.size() / 2], std::chrono::seconds(30));
  std::cout << starts.size() << " times killed; from start to serving: median "
            << starts[starts.size() / 2].count() << " ms, most " << starts.back().count()
            << " ms\n";
}

INSTANTIATE_TEST_SUITE_P(, CrashTest,
                         ::testing::Values(Kind{"Split", {}}, Kind{"Packed", {"--packed"}},
                                           Kind{"SplitOnNbd", {}, {}, true, 3},
                                           Kind{"PackedOnNbd", {"--packed"}, {}, true, 3},
                                           // Most requests of the killed ones waited for the limit.
                                           Kind{"Limited", {}, {"--iops-total", "20000"}}),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace guestio::tests
