// SPDX-License-Identifier: MIT
// guestio-blk on a disk of a real NBD server that is killed, stopped and restarted. The guest
// notices a pause.
#include <algorithm>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "testing/nbd_server.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using testing::ChildProcess;
using testing::NbdServer;

class NbdServerTest : public BackendTest {
 protected:
  void SetUp() override {
    server_ = NbdServer::nbdkit({"file", "IMAGE"});
    if (!server_) GTEST_SKIP() << "nbdkit is not installed";
    image_ = server_->uri();
  }
  void start_disk(std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--control", control_});
    start(more);
  }
  /// A file disk and one of the server, on one thread.
  void start_two_disks() {
    backend_ = std::make_unique<ChildProcess>(std::vector<std::string>{
        kBackendProgram, "--threads", "1", "--control", control_, "--disk",
        "name=remote,socket-path=" + socket_ + ",blk-file=" + server_->uri(), "--disk",
        "name=local,socket-path=" + local_socket_ + ",blk-file=" + local_image_});
    ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  }
  nlohmann::json ask(const std::string& command) {
    const Outcome outcome = run({"--ask", control_, command});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return nlohmann::json::parse(outcome.output, nullptr, false);
  }
  /// What the statistics say of the disk's server.
  nlohmann::json ask_about_server() { return ask("statistics")["disks"][0]["backend"]; }
  void wait_until_away() {
    EXPECT_TRUE(wait_until([&] { return ask_about_server()["available"] == false; }))
        << backend_->output();
  }
  void wait_until_back() {
    EXPECT_TRUE(wait_until([&] { return ask_about_server()["available"] == true; }))
        << backend_->output();
  }

  void start_load(const std::string& total_operations) {
    load_ = std::make_unique<ChildProcess>(std::vector<std::string>{
        kLoadProgram, "verify", "--socket-path", socket_, "--numjobs", "2", "--iodepth", "32",
        "--seed", "13", "--timeout", "60", "--ops", total_operations});
  }
  /// Whether the backend completed so many more requests before the end of the load.
  bool wait_for_progress(std::uint64_t requests) {
    const std::uint64_t before = requests_done();
    (void)wait_until([&] { return !load_->is_running() || requests_done() >= before + requests; });
    return load_->is_running();
  }
  /// Expects that the load saw one backend, without an error.
  void finish_load() {
    EXPECT_EQ(load_->wait(std::chrono::seconds(200)), 0)
        << load_->output() << backend_->output() << server_->process().output();
    EXPECT_EQ(load_->output().find("reconnects:"), std::string::npos) << load_->output();
  }

  /// Submits a write of 4 KiB at a sector without waiting.
  static void begin_write(testing::BlkGuest& guest, std::uint64_t sector, std::byte value) {
    const vhost::SharedRange memory = guest.scratch();
    const virtio::blk::RequestHeader header{virtio::blk::RequestType::kOut, 0, sector};
    std::memcpy(memory.host, &header, sizeof header);
    std::fill_n(memory.host + 4096, 4096, value);
    memory.host[64] = std::byte{0xff};
    using virtio::Direction;
    const std::array chain = {
        virtio::DriverSegment{memory.gpa, sizeof header, Direction::kReadable},
        virtio::DriverSegment{memory.gpa.plus_unchecked(4096), 4096, Direction::kReadable},
        virtio::DriverSegment{memory.gpa.plus_unchecked(64), 1, Direction::kWritable}};
    ASSERT_TRUE(guest.queue().ring().add(chain));
    ASSERT_TRUE(guest.queue().ring().publish());
    ASSERT_TRUE(guest.queue().kick());
  }
  std::uint64_t kicks() { return ask("statistics")["disks"][0]["kicks"]; }
  /// As begin_write(), until the backend has the request.
  void send_write(testing::BlkGuest& guest, std::uint64_t sector, std::byte value) {
    const std::uint64_t before = kicks();
    begin_write(guest, sector, value);
    ASSERT_TRUE(wait_until([&] { return kicks() > before; })) << backend_->output();
  }
  /// The status of that write; 0xff without one.
  std::uint8_t finish_write(testing::BlkGuest& guest) {
    EXPECT_EQ(guest.wait_for_used(0, std::chrono::seconds(60)), 1U) << backend_->output();
    return std::to_integer<std::uint8_t>(guest.scratch().host[64]);
  }
  static bool has_completed(testing::BlkGuest& guest) {
    return guest.wait_for_used(0, std::chrono::milliseconds(0)).has_value();
  }
  /// Many requests of another guest, one after the other.
  static void expect_served(testing::BlkGuest& guest) {
    for (std::uint64_t i = 0; i < 500; ++i) {
      const std::vector<std::byte> data(4096, static_cast<std::byte>(i));
      ASSERT_EQ(guest.write(8 * (i % 64), data).status, 0);
      ASSERT_EQ(guest.read(8 * (i % 64), 4096).data, data);
    }
    ASSERT_EQ(guest.flush().status, 0);
  }

  std::unique_ptr<NbdServer> server_;
  std::unique_ptr<ChildProcess> load_;
  std::string local_socket_ = folder_.file("local.sock");
  std::string local_image_ = folder_.make_image("local.img", kImageBytes);
};

TEST_F(NbdServerTest, KillsOfTheServerAreAPauseOfTheGuest) {
  start_disk({"--num-queues", "2"});
  const std::string total = operations(24000);
  start_load(total);
  int kills = 0;
  while (kills < 4 && wait_for_progress(std::stoul(total) / 12)) {
    server_->stop(SIGKILL);
    ++kills;
    wait_until_away();
    EXPECT_TRUE(ask("info").is_object());
    ASSERT_TRUE(server_->start());
    wait_until_back();
  }
  EXPECT_GE(kills, 2);
  finish_load();
  const auto backend = ask_about_server();
  EXPECT_EQ(backend["name"], "nbd");
  EXPECT_EQ(backend["connections"], 2);
  EXPECT_GE(backend["reconnects"], 2);
  stop();
}

TEST_F(NbdServerTest, AStoppedServerIsAPauseOfTheGuest) {
  start_disk({"--num-queues", "2"});
  const std::string total = operations(12000);
  start_load(total);
  ASSERT_TRUE(wait_for_progress(std::stoul(total) / 12)) << load_->output();
  ASSERT_TRUE(server_->pause());
  EXPECT_TRUE(ask("info").is_object());
  EXPECT_TRUE(ask_about_server().is_object());
  EXPECT_TRUE(load_->is_running());
  server_->resume();
  finish_load();
  EXPECT_EQ(ask_about_server()["reconnects"], 0);
  stop();
}

TEST_F(NbdServerTest, AServerStoppedBeyondTheTimeoutIsAPauseOfTheGuest) {
  start_disk({"--num-queues", "2", "--io-timeout", "1"});
  const std::string total = operations(12000);
  start_load(total);
  ASSERT_TRUE(wait_for_progress(std::stoul(total) / 12)) << load_->output();
  ASSERT_TRUE(server_->pause());
  ASSERT_TRUE(backend_->wait_for_output("no reply for 1 s")) << backend_->output();
  EXPECT_TRUE(load_->is_running());
  server_->resume();
  finish_load();
  EXPECT_GE(ask_about_server()["reconnects"], 1);
  stop();
}

TEST_F(NbdServerTest, AKilledServerDelaysNoOtherDiskOfItsThread) {
  start_two_disks();
  const auto remote = connect();
  auto local = testing::BlkGuest::connect(local_socket_);
  ASSERT_TRUE(local.has_value()) << backend_->output();
  ASSERT_EQ(remote->read(0, 4096).status, 0);
  server_->stop(SIGKILL);
  begin_write(*remote, 8, std::byte{7});
  ASSERT_TRUE(backend_->wait_for_output("requests held pending retry")) << backend_->output();
  expect_served(**local);
  EXPECT_FALSE(has_completed(*remote));
  const auto disks = ask("statistics")["disks"];
  EXPECT_EQ(disks[0]["held_requests"], 1);
  EXPECT_EQ(disks[1]["requests"]["read"]["requests"], 500);
  ASSERT_TRUE(server_->start());
  EXPECT_EQ(finish_write(*remote), 0);
  EXPECT_EQ(remote->read(8, 4096).data, std::vector<std::byte>(4096, std::byte{7}));
}

TEST_F(NbdServerTest, AStoppedServerDelaysNoOtherDiskOfItsThread) {
  start_two_disks();
  const auto remote = connect();
  auto local = testing::BlkGuest::connect(local_socket_);
  ASSERT_TRUE(local.has_value()) << backend_->output();
  ASSERT_EQ(remote->read(0, 4096).status, 0);
  ASSERT_TRUE(server_->pause());
  send_write(*remote, 8, std::byte{7});
  expect_served(**local);
  EXPECT_FALSE(has_completed(*remote));
  EXPECT_EQ(ask("info")["disks"].size(), 2U);
  server_->resume();
  EXPECT_EQ(finish_write(*remote), 0);
}

TEST_F(NbdServerTest, AHeldRequestFailsOnTheOperatorsRequest) {
  start_disk();
  const auto guest = connect();
  server_->stop(SIGKILL);
  begin_write(*guest, 8, std::byte{7});
  ASSERT_TRUE(backend_->wait_for_output("requests held pending retry")) << backend_->output();
  backend_->send_signal(SIGUSR2);
  EXPECT_EQ(finish_write(*guest), 1);
  stop();
}

TEST_F(NbdServerTest, OnErrorReportFailsRequestsOfAnAbsentServerAtOnce) {
  start_disk({"--on-error", "report"});
  const auto guest = connect();
  server_->stop(SIGKILL);
  wait_until_away();
  EXPECT_EQ(guest->read(0, 4096).status, 1);
  ASSERT_TRUE(server_->start());
  wait_until_back();
  EXPECT_EQ(guest->read(0, 4096).status, 0);
  stop();
}

TEST_F(NbdServerTest, AnAbsentServerDoesNotBlockExit) {
  start_disk();
  const auto guest = connect();
  server_->stop(SIGKILL);
  begin_write(*guest, 8, std::byte{7});
  ASSERT_TRUE(backend_->wait_for_output("requests held pending retry")) << backend_->output();
  stop();
}

TEST_F(NbdServerTest, AStoppedServerBlocksExitUntilTheShutdownTimeout) {
  start_disk({"--shutdown-timeout", "1"});
  const auto guest = connect();
  ASSERT_EQ(guest->read(0, 4096).status, 0);
  ASSERT_TRUE(server_->pause());
  send_write(*guest, 8, std::byte{7});
  backend_->send_signal(SIGTERM);
  EXPECT_EQ(backend_->wait(), 1) << backend_->output();
  EXPECT_NE(backend_->output().find("disk disk0: requests are still in flight after 1 s"),
            std::string::npos)
      << backend_->output();
  EXPECT_FALSE(has_completed(*guest)) << "it may still be performed";
  EXPECT_FALSE(std::filesystem::exists(socket_));
  server_->resume();
}

TEST_F(NbdServerTest, ATakeoverUnderLoadIsAPauseOfTheGuest) {
  start_disk({"--num-queues", "2"});
  const std::string total = operations(12000);
  start_load(total);
  int takeovers = 0;
  for (; takeovers < 3 && wait_for_progress(std::stoul(total) / 12); ++takeovers) take_over();
  EXPECT_GE(takeovers, 1);
  finish_load();
  stop();
}

TEST_F(NbdServerTest, ATakeoverKeepsARequestHeldForAnAbsentServer) {
  start_disk();
  const auto guest = connect({.protocol = vhost::kProtocolMq | vhost::kProtocolConfig |
                                          vhost::kProtocolReplyAck | vhost::kProtocolInflightShmfd,
                              .has_inflight_record = true});
  ASSERT_NE(guest, nullptr);
  server_->stop(SIGKILL);
  begin_write(*guest, 8, std::byte{7});
  ASSERT_TRUE(backend_->wait_for_output("requests held pending retry")) << backend_->output();
  take_over();
  EXPECT_FALSE(has_completed(*guest));
  wait_until_away();
  ASSERT_TRUE(server_->start());
  EXPECT_EQ(finish_write(*guest), 0);
  EXPECT_EQ(guest->read(8, 4096).data, std::vector<std::byte>(4096, std::byte{7}));
  stop();
}

TEST_F(NbdServerTest, AnAbsentServerAtTheStartIsReportedWithItsAddress) {
  server_->stop(SIGKILL);
  const Outcome outcome = run({"--socket-path", socket_, "--blk-file", server_->uri()});
  expect_diagnostic(outcome, server_->path());
  expect_diagnostic(outcome, "No such file");
}

TEST_F(NbdServerTest, AServerThatIsAbsentAtTheStartIsServedOnItsReturn) {
  server_->stop(SIGKILL);
  start_two_disks();
  EXPECT_EQ(ask("info")["disks"].size(), 2U) << backend_->output();
  auto local = testing::BlkGuest::connect(local_socket_);
  ASSERT_TRUE(local.has_value()) << backend_->output();
  expect_served(**local);
  ASSERT_TRUE(server_->start());
  ASSERT_TRUE(backend_->wait_for_output("disk remote: can be served now")) << backend_->output();
  EXPECT_EQ(connect()->read(0, 4096).status, 0);
  stop();
}

TEST_F(NbdServerTest, GrowthOfTheExportReachesTheGuest) {
  start_disk();
  const auto guest = connect();
  EXPECT_EQ(guest->config().capacity, NbdServer::kBytes / 512);
  server_->stop(SIGKILL);
  std::filesystem::resize_file(server_->image(), 2 * NbdServer::kBytes);
  ASSERT_TRUE(server_->start());
  ASSERT_TRUE(backend_->wait_for_output("resized from 4.0 MiB to 8.0 MiB")) << backend_->output();
  EXPECT_EQ(guest->config().capacity, 2 * NbdServer::kBytes / 512);
  EXPECT_EQ(guest->read(NbdServer::kBytes / 512, 4096).status, 0);
  stop();
}

}  // namespace
}  // namespace guestio::tests
