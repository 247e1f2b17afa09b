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
#include "testing/comes_true.h"
#include "testing/rounds.h"
#include "testing/temporary.h"

namespace guestio::tests {

/// The guestio-blk that this build made.
inline constexpr const char* kBackendProgram = GUESTIO_BLK_PROGRAM;
inline constexpr const char* kLoadProgram = GUESTIO_LOAD_PROGRAM;

/// What became of a guestio-blk that was not meant to serve.
struct Outcome {
  int status;
  std::string output;
};

inline Outcome run(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), kBackendProgram);
  testing::ChildProcess child(arguments);
  return {child.wait().value_or(-1), child.output()};
}

/// One clear line that holds `words`, and exit status 2.
inline void expect_complaint(const Outcome& outcome, const std::string& words) {
  EXPECT_EQ(outcome.status, 2) << outcome.output;
  EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 1) << outcome.output;
  EXPECT_NE(outcome.output.find(words), std::string::npos) << outcome.output;
}

/// How many operations a verification makes: those of a build for looking at memory take many times
/// as long each, and those of one for looking at threads take longer still.
inline std::string operations(unsigned usual) {
  return std::to_string(usual / (kIsThreadSanitized ? 10 : GUESTIO_IS_SANITIZED ? 4 : 1));
}

/// The processors that this machine lets us run on, which need not begin at 0.
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

/// What may come to a log that is held back: a few lines a second, on a machine that is slow.
inline std::ptrdiff_t lines_since(std::chrono::steady_clock::time_point began) {
  return 4 *
         std::chrono::ceil<std::chrono::seconds>(std::chrono::steady_clock::now() - began).count();
}

/// A running guestio-blk on an image of 16 MiB.
class BackendTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kImageBytes = std::uint64_t{16} << 20;

  /// Starts guestio-blk with the usual options and `more`.
  void start(const std::vector<std::string>& more = {}) { start_under({}, more); }
  /// The same as an argument of another program, such as one that sets limits.
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
  /// Ends it as an operator does.
  void stop() {
    backend_->send_signal(SIGTERM);
    ASSERT_EQ(backend_->wait(), 0) << backend_->output();
  }
  std::unique_ptr<testing::BlkGuest> connect(const testing::BlkGuest::Options& options = {}) {
    auto guest = testing::BlkGuest::connect(socket_, options);
    EXPECT_TRUE(guest.has_value()) << guest.error().to_string() << "\n" << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  /// Starts another guestio-blk in the place of the one that runs, which has control_ as its
  /// control socket; once more when a disk that is slow at the moment has kept it from that.
  void take_over(const std::vector<std::string>& more = {}) {
    const auto before = std::move(backend_);
    std::vector<std::string> words = {kBackendProgram, "--takeover", control_};
    words.insert(words.end(), more.begin(), more.end());
    ASSERT_TRUE(comes_true([&] {
      backend_ = std::make_unique<testing::ChildProcess>(words);
      return backend_->wait_for_output("took over");
    })) << backend_->output()
        << before->output();
    EXPECT_EQ(before->wait(), 0) << before->output();
    EXPECT_NE(before->output().find("has taken over"), std::string::npos) << before->output();
  }
  /// How many requests the one that runs has answered, which has control_ as its control socket; 0
  /// when it does not tell.
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
  /// A new front-end is served, and the process is the same.
  void expect_alive() {
    ASSERT_TRUE(backend_->is_running()) << backend_->output();
    const auto guest = connect();
    ASSERT_NE(guest, nullptr);
    EXPECT_EQ(guest->read(0, 4096).status, 0);
  }

  testing::TemporaryFolder folder_;
  std::string socket_ = folder_.file("s");
  std::string control_ = folder_.file("control");
  std::string image_ = folder_.make_image("disk.img", kImageBytes);
  std::unique_ptr<testing::ChildProcess> backend_;
};

}  // namespace guestio::tests
