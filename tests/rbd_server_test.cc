// SPDX-License-Identifier: MIT
// guestio-blk on RBD images of a real Ceph cluster whose OSD is killed, stopped and restarted. The
// guest notices a pause. The cluster is that of the tests of guestio/disk/rbd: one program, one
// start.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "guestio/disk/rbd/test/rbd_cluster.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using disk::rbd_test::cluster;
using disk::rbd_test::image_name;
using disk::rbd_test::lock_owner;
using disk::rbd_test::new_image;
using disk::rbd_test::RbdClient;
using testing::BlkGuest;
using testing::ChildProcess;
using Words = std::vector<std::string>;

const std::vector<std::byte> kOldData(4096, std::byte{0x11});
const std::vector<std::byte> kNewData(4096, std::byte{0x22});

class RbdServerTest : public BackendTest {
 protected:
  void SetUp() override {
    const disk::OpenOptions options = new_image(kImageBytes);
    image_ = options.uri;
    name_ = image_name(options);
  }
  void start_disk(Words more = {}) {
    more.insert(more.end(), {"--control", control_, "--num-queues", "2"});
    start(more);
  }
  /// A file disk and `image`, on one thread.
  void start_two_disks(const std::string& image, const Words& more = {}) {
    Words words = {kBackendProgram,
                   "--threads",
                   "1",
                   "--control",
                   control_,
                   "--disk",
                   "name=remote,socket-path=" + socket_ + ",blk-file=" + image,
                   "--disk",
                   "name=local,socket-path=" + local_socket_ + ",blk-file=" + local_image_};
    words.insert(words.end(), more.begin(), more.end());
    backend_ = std::make_unique<ChildProcess>(words);
    ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  }
  /// What the statistics say of the disk's cluster.
  nlohmann::json ask_about_cluster() {
    const Outcome outcome = run({"--ask", control_, "statistics"});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    const auto reply = nlohmann::json::parse(outcome.output, nullptr, false);
    return reply["disks"][0]["backend"];
  }

  void start_load(const std::string& total_operations, const Words& more = {}) {
    Words words = {kLoadProgram,    "verify",
                   "--socket-path", socket_,
                   "--numjobs",     "2",
                   "--iodepth",     "32",
                   "--seed",        "17",
                   "--timeout",     "120",
                   "--ops",         total_operations};
    words.insert(words.end(), more.begin(), more.end());
    load_ = std::make_unique<ChildProcess>(words);
  }
  /// Whether the backend completed so many more requests before the end of the load.
  bool wait_for_progress(std::uint64_t requests) {
    const std::uint64_t before = requests_done();
    (void)wait_until([&] { return !load_->is_running() || requests_done() >= before + requests; });
    return load_->is_running();
  }
  void finish_load() {
    EXPECT_EQ(load_->wait(std::chrono::seconds(200)), 0) << load_->output() << backend_->output();
  }
  /// Expects that the load saw one backend, without an error.
  void finish_undisturbed_load() {
    finish_load();
    EXPECT_EQ(load_->output().find("reconnects:"), std::string::npos) << load_->output();
  }

  /// Submits a write of kNewData at sector 8 without waiting.
  static void begin_write(BlkGuest& guest) {
    using virtio::Direction;
    const vhost::SharedRange memory = guest.scratch();
    const virtio::blk::RequestHeader header{virtio::blk::RequestType::kOut, 0, 8};
    std::memcpy(memory.host, &header, sizeof header);
    std::ranges::copy(kNewData, memory.host + 4096);
    memory.host[64] = std::byte{0xff};
    const std::array chain = {
        virtio::DriverSegment{memory.gpa, sizeof header, Direction::kReadable},
        virtio::DriverSegment{memory.gpa.plus_unchecked(4096), 4096, Direction::kReadable},
        virtio::DriverSegment{memory.gpa.plus_unchecked(64), 1, Direction::kWritable}};
    ASSERT_TRUE(guest.queue().ring().add(chain));
    ASSERT_TRUE(guest.queue().ring().publish());
    ASSERT_TRUE(guest.queue().kick());
  }
  /// The status of that write; 0xff without one.
  static std::uint8_t finish_write(BlkGuest& guest) {
    EXPECT_EQ(guest.wait_for_used(0, std::chrono::seconds(60)), 1U);
    return std::to_integer<std::uint8_t>(guest.scratch().host[64]);
  }
  static bool has_completed(BlkGuest& guest) {
    return guest.wait_for_used(0, std::chrono::milliseconds(0)).has_value();
  }
  /// Many requests of the file disk, one after the other.
  void expect_local_disk_served() {
    const auto guest = BlkGuest::connect(local_socket_);
    ASSERT_TRUE(guest.has_value()) << backend_->output();
    for (std::uint64_t i = 0; i < 500; ++i) {
      const std::vector<std::byte> data(4096, static_cast<std::byte>(i));
      ASSERT_EQ((*guest)->write(8 * (i % 64), data).status, 0);
      ASSERT_EQ((*guest)->read(8 * (i % 64), 4096).data, data);
    }
    ASSERT_EQ((*guest)->flush().status, 0);
  }
  /// A configuration of a cluster without a monitor.
  std::string absent_cluster() {
    std::ifstream from(cluster().conf());
    std::ofstream to(folder_.file("absent.conf"));
    for (std::string line; std::getline(from, line);) {
      to << (line.starts_with("mon host") ? "mon host = [v2:127.0.0.1:1,v1:127.0.0.1:2]" : line)
         << '\n';
    }
    return "rbd:rbd/absent?id=vm&conf=" + folder_.file("absent.conf");
  }

  std::string name_;
  std::unique_ptr<ChildProcess> load_;
  std::string local_socket_ = folder_.file("local.sock");
  std::string local_image_ = folder_.make_image("local.img", kImageBytes);
};

TEST_F(RbdServerTest, KillsOfTheOsdAreAPauseOfTheGuest) {
  start_disk();
  const std::string total = operations(2000);
  start_load(total);
  ASSERT_TRUE(wait_for_progress(std::stoul(total) / 6)) << load_->output();
  cluster().kill_osd();
  cluster().start_osd();
  finish_undisturbed_load();
  EXPECT_EQ(ask_about_cluster()["name"], "rbd");
  EXPECT_EQ(ask_about_cluster()["reconnects"], 0);
  stop();
}

TEST_F(RbdServerTest, AFencedClientIsAPauseOfTheGuest) {
  start_disk();
  const std::string total = operations(2000);
  start_load(total);
  ASSERT_TRUE(wait_for_progress(std::stoul(total) / 6)) << load_->output();
  ASSERT_TRUE(cluster().fence(lock_owner(name_)));
  finish_undisturbed_load();
  EXPECT_EQ(ask_about_cluster()["reconnects"], 1) << backend_->output();
  stop();
}

TEST_F(RbdServerTest, TakeoversUnderLoadAreAPauseOfTheGuest) {
  start_disk();
  const std::string total = operations(3000);
  start_load(total);
  int takeovers = 0;
  for (; takeovers < 2 && wait_for_progress(std::stoul(total) / 8); ++takeovers) take_over();
  EXPECT_GE(takeovers, 1);
  finish_undisturbed_load();
  stop();
}

TEST_F(RbdServerTest, EveryAcknowledgedWriteSurvivesKillsOfTheBackend) {
  start_disk();
  const std::string total = operations(4000);
  start_load(total, {"--reconnect"});
  int kills = 0;
  for (; kills < 3 && wait_for_progress(std::stoul(total) / 10); ++kills) {
    const std::string before = lock_owner(name_);
    backend_->send_signal(SIGKILL);
    ASSERT_EQ(backend_->wait(), 128 + SIGKILL);
    EXPECT_EQ(lock_owner(name_), before);
    start_disk();
    EXPECT_NE(lock_owner(name_), before) << "broken before the disk is served";
  }
  EXPECT_GE(kills, 1);
  finish_load();
  EXPECT_NE(load_->output().find("reconnects:"), std::string::npos) << load_->output();
  stop();
}

TEST_F(RbdServerTest, TheLockOfAnotherDeadProcessIsBrokenOnlyOnRequest) {
  start_disk();
  ASSERT_EQ(connect()->write(8, kOldData).status, 0);
  backend_->send_signal(SIGKILL);
  ASSERT_EQ(backend_->wait(), 128 + SIGKILL);
  // Of another disk: its state file is not beside this socket.
  socket_ = folder_.file("other");
  const Outcome refused = run({"--socket-path", socket_, "--blk-file", image_});
  expect_diagnostic(refused, lock_owner(name_));
  expect_diagnostic(refused, "break-lock=on");
  start_disk({"--break-lock"});
  EXPECT_EQ(connect()->read(8, 4096).data, kOldData);
  stop();
  EXPECT_TRUE(wait_until([&] { return lock_owner(name_).empty(); }));
}

TEST_F(RbdServerTest, GrowthOfTheImageReachesTheGuest) {
  start_disk();
  const auto guest = connect();
  ASSERT_EQ(guest->config().capacity, kImageBytes / 512);
  const RbdClient client;
  rbd_image_t image = client.open(name_);
  ASSERT_EQ(::rbd_resize(image, 2 * kImageBytes), 0);
  ::rbd_close(image);
  ASSERT_TRUE(backend_->wait_for_output("resized from 16.0 MiB to 32.0 MiB")) << backend_->output();
  EXPECT_EQ(guest->config().capacity, 2 * kImageBytes / 512);
  EXPECT_EQ(guest->write(kImageBytes / 512, kNewData).status, 0);
  stop();
}

TEST_F(RbdServerTest, ASnapshotIsServedReadOnly) {
  start_disk();
  ASSERT_EQ(connect()->write(8, kOldData).status, 0);
  const RbdClient client;
  rbd_image_t image = client.open(name_);
  ASSERT_EQ(::rbd_snap_create(image, "before"), 0);
  ::rbd_close(image);
  ASSERT_EQ(connect()->write(8, kNewData).status, 0);
  stop();
  image_.insert(image_.find('?'), "@before");
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_}), "read-only");
  start_disk({"--read-only"});
  const auto guest = connect();
  EXPECT_EQ(guest->read(8, 4096).data, kOldData);
  EXPECT_EQ(guest->write(8, kNewData).status, 1);
  EXPECT_EQ(guest->read(8, 4096).data, kOldData);
  stop();
}

TEST_F(RbdServerTest, AStoppedOsdDelaysNoOtherDiskOfItsThread) {
  start_two_disks(image_, {"--shutdown-timeout", "1"});
  const auto remote = connect();
  ASSERT_EQ(remote->write(8, kOldData).status, 0);
  cluster().pause_osd();
  begin_write(*remote);
  expect_local_disk_served();
  EXPECT_FALSE(has_completed(*remote));
  EXPECT_EQ(run({"--ask", control_, "info"}).status, 0);
  cluster().continue_osd();
  EXPECT_EQ(finish_write(*remote), 0);
  EXPECT_EQ(remote->read(8, 4096).data, kNewData);
  stop();
}

TEST_F(RbdServerTest, AStoppedOsdBlocksExitUntilTheShutdownTimeout) {
  start_two_disks(image_, {"--shutdown-timeout", "1"});
  const auto remote = connect();
  ASSERT_EQ(remote->write(8, kOldData).status, 0);
  cluster().pause_osd();
  begin_write(*remote);
  // The thread has taken the write before it serves these.
  expect_local_disk_served();
  backend_->send_signal(SIGTERM);
  EXPECT_EQ(backend_->wait(), 1) << backend_->output();
  EXPECT_NE(backend_->output().find("disk remote: requests are still in flight after 1 s"),
            std::string::npos)
      << backend_->output();
  cluster().continue_osd();
}

TEST_F(RbdServerTest, AnAbsentClusterAtTheStartDelaysNoOtherDisk) {
  start_two_disks(absent_cluster());
  expect_local_disk_served();
  EXPECT_EQ(run({"--ask", control_, "info"}).status, 0);
  backend_->send_signal(SIGTERM);
  EXPECT_TRUE(backend_->wait().has_value()) << backend_->output();
  EXPECT_FALSE(std::filesystem::exists(local_socket_));
}

}  // namespace
}  // namespace guestio::tests
