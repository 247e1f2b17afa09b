// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "testing/blk_guest.h"
#include "testing/child_process.h"
#include "testing/rounds.h"
#include "testing/temporary.h"
#include "testing/wait_until.h"

namespace guestio::tests {

/// The guestio-blk of this build.
inline constexpr const char* kBackendProgram = GUESTIO_BLK_PROGRAM;
inline constexpr const char* kLoadProgram = GUESTIO_LOAD_PROGRAM;

/// Exit status and output of a guestio-blk that was not meant to serve.
struct Outcome {
  int status;
  std::string output;
};

inline Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), kBackendProgram);
  testing::ChildProcess child(arguments);
  return {child.wait().value_or(-1), child.output()};
}

/// Expects one line with `words` and exit status 2.
inline void expect_diagnostic(const Outcome& outcome, const std::string& words) {
  EXPECT_EQ(outcome.status, 2) << outcome.output;
  EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 1) << outcome.output;
  EXPECT_NE(outcome.output.find(words), std::string::npos) << outcome.output;
}

/// The operations of a verification: fewer under ASan, and still fewer under TSan, where each takes
/// many times as long.
inline std::string operations(unsigned usual) {
  return std::to_string(usual / (kIsThreadSanitized ? 10 : GUESTIO_IS_SANITIZED ? 4 : 1));
}

/// The processors of this process's affinity mask, not necessarily from 0 on.
inline std::vector<int> allowed_processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  EXPECT_EQ(::sched_getaffinity(0, sizeof allowed, &allowed), 0);
  std::vector<int> all;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &allowed)) all.push_back(cpu);
  }
  return all;
}

/// The lines a rate-limited log may hold: a few a second, on a slow machine.
inline std::ptrdiff_t max_log_lines_since(std::chrono::steady_clock::time_point began) {
  return 4 *
         std::chrono::ceil<std::chrono::seconds>(std::chrono::steady_clock::now() - began).count();
}

/// A running guestio-blk on an image of 16 MiB.
class BackendTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kImageBytes = std::uint64_t{16} << 20;

  /// Starts guestio-blk with the usual options and `more`.
  void start(const std::vector<std::string>& more = {}) { start_under({}, more); }
  /// Starts it through another program, such as one that sets limits.
  void start_under(const std::vector<std::string>& wrapper, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = wrapper;
    for (const std::string& usual : {std::string(kBackendProgram), std::string("--socket-path"),
                                     socket_, std::string("--blk-file"), image_}) {
      arguments.push_back(usual);
    }
    arguments.insert(arguments.end(), more.begin(), more.end());
    backend_ = std::make_unique<testing::ChildProcess>(arguments);
    ASSERT_TRUE(backend_->wait_for_output("serves ")) << backend_->output();
  }
  /// Ends it with SIGTERM, as an operator does.
  void stop() {
    backend_->send_signal(SIGTERM);
    ASSERT_EQ(backend_->wait(), 0) << backend_->output();
  }
  std::unique_ptr<testing::BlkGuest> connect(const testing::BlkGuest::Options& options = {}) {
    auto guest = testing::BlkGuest::connect(socket_, options);
    EXPECT_TRUE(guest.has_value()) << guest.error().to_string() << "\n" << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  /// Lets another guestio-blk take over through control_, with retries while a slow disk prevents
  /// it.
  void take_over(const std::vector<std::string>& more = {}) {
    const auto before = std::move(backend_);
    std::vector<std::string> words = {kBackendProgram, "--takeover", control_};
    words.insert(words.end(), more.begin(), more.end());
    ASSERT_TRUE(wait_until([&] {
      backend_ = std::make_unique<testing::ChildProcess>(words);
      return backend_->wait_for_output("took over");
    })) << backend_->output()
        << before->output();
    EXPECT_EQ(before->wait(), 0) << before->output();
    EXPECT_NE(before->output().find("has taken over"), std::string::npos) << before->output();
  }
  /// The requests completed by the running one, through control_; 0 without a reply.
  std::uint64_t requests_done() {
    const auto json =
        nlohmann::json::parse(run({"--ask", control_, "statistics"}).output, nullptr, false);
    std::uint64_t sum = 0;
    if (!json.is_object()) return sum;
    for (const auto& kind : json["disks"][0]["requests"]) {
      sum += kind["requests"].get<std::uint64_t>();
    }
    return sum;
  }
  /// Expects that the same process serves a new front-end.
  void expect_alive() {
    ASSERT_TRUE(backend_->is_running()) << backend_->output();
    const auto guest = connect();
    ASSERT_NE(guest, nullptr);
    EXPECT_EQ(guest->read(0, 4096).status, 0);
  }

  testing::TemporaryDirectory folder_;
  std::string socket_ = folder_.file("s");
  std::string control_ = folder_.file("control");
  std::string image_ = folder_.make_image("disk.img", kImageBytes);
  std::unique_ptr<testing::ChildProcess> backend_;
};

}  // namespace guestio::tests
