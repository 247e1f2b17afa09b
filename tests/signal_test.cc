// SPDX-License-Identifier: MIT
// Termination of guestio-blk and guestio-load by signals, and their cleanup.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

UniqueFd listen_at(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(socket.get(), 1), 0);
  return socket;
}

class SignalTest : public BackendTest, public ::testing::WithParamInterface<int> {
 protected:
  std::uint64_t requests_so_far() {
    const Outcome outcome = run({"--ask", control_, "statistics"});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return nlohmann::json::parse(outcome.output)["disks"][0]["requests"]["read"]["requests"];
  }
  void expect_no_sockets() {
    EXPECT_FALSE(std::filesystem::exists(socket_));
    EXPECT_FALSE(std::filesystem::exists(control_));
  }
};

TEST_P(SignalTest, TheBackendDrainsAndRemovesItsSockets) {
  start({"--control", control_});
  const auto guest = connect();
  ASSERT_NE(guest, nullptr);
  EXPECT_EQ(guest->write(0, std::vector<std::byte>(4096, std::byte{1})).status, 0);
  backend_->send_signal(GetParam());
  EXPECT_EQ(backend_->wait(), 0) << backend_->output();
  EXPECT_NE(backend_->output().find("draining requests in flight"), std::string::npos);
  expect_no_sockets();
}

TEST_P(SignalTest, TheLoadProgramReportsItsResultsSoFar) {
  start({"--control", control_});
  testing::ChildProcess load({kLoadProgram, "run", "--socket-path", socket_, "--runtime", "1000"});
  while (load.is_running() && requests_so_far() == 0) {
  }
  load.send_signal(GetParam());
  EXPECT_EQ(load.wait(), 0) << load.output();
  EXPECT_NE(load.output().find(" requests, "), std::string::npos) << load.output();
}

INSTANTIATE_TEST_SUITE_P(EachThatAsksToStop, SignalTest, ::testing::Values(SIGTERM, SIGINT, SIGHUP),
                         [](const auto& instance) {
                           return std::string(::sigabbrev_np(instance.param));
                         });

class HangUpTest : public BackendTest {};

TEST_F(HangUpTest, TheBackendIgnoresSighupWhereItsParentDid) {
  start_under({"/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh"}, {});
  backend_->send_signal(SIGHUP);
  expect_alive();
  stop();
}

class SocketPathTest : public BackendTest {};

TEST_F(SocketPathTest, IsRemovedWhenASecondSignalForcesTheExit) {
  start({"--control", control_});
  // Both signals arrive at once; the drain after the first may or may not be complete.
  backend_->send_signal(SIGSTOP);
  backend_->send_signal(SIGTERM);
  backend_->send_signal(SIGINT);
  backend_->send_signal(SIGCONT);
  EXPECT_LE(backend_->wait().value_or(255), 1) << backend_->output();
  EXPECT_FALSE(std::filesystem::exists(socket_)) << backend_->output();
  EXPECT_FALSE(std::filesystem::exists(control_)) << backend_->output();
}

TEST_F(SocketPathTest, StaysWhenAnotherProcessOwnsIt) {
  start({"--control", control_});
  std::filesystem::remove(socket_);
  std::filesystem::remove(control_);
  const UniqueFd anothers = listen_at(socket_);
  const UniqueFd anothers_control = listen_at(control_);
  stop();
  EXPECT_TRUE(std::filesystem::exists(socket_));
  EXPECT_TRUE(std::filesystem::exists(control_));
}

TEST_F(SocketPathTest, IsRemovedWhenAnotherSocketFails) {
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, "--control",
                         folder_.file("no/such/folder")}),
                    "No such file");
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(SocketPathTest, StaysAfterATakeover) {
  start({"--control", control_});
  take_over();
  expect_alive();
  EXPECT_TRUE(std::filesystem::exists(control_));
  stop();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  EXPECT_FALSE(std::filesystem::exists(control_));
}

}  // namespace
}  // namespace guestio::tests
