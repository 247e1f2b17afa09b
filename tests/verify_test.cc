// SPDX-License-Identifier: MIT
// guestio-load against guestio-blk and against QEMU's storage daemon, unchanged.
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

/// Runs `words` for a second, and again for longer when the disk completed nothing in one of the
/// `directions`: shared disks stall for seconds at times.
nlohmann::json measure(const std::function<std::string(std::vector<std::string>)>& load,
                       std::vector<std::string> words, const std::vector<std::string>& directions) {
  words.insert(words.end(), {"--output-format=json", "--runtime", ""});
  nlohmann::json json;
  const auto has_done = [&](const std::string& direction) {
    return json["jobs"][0][direction]["total_ios"].get<std::uint64_t>() != 0;
  };
  for (const char* const seconds : {"1", "5", "30"}) {
    words.back() = seconds;
    json = nlohmann::json::parse(load(words));
    if (std::ranges::all_of(directions, has_done)) break;
  }
  return json;
}

/// Whether connections to `path` are accepted; a socket file alone is no proof.
bool is_accepting(const std::string& path) {
  std::ifstream sockets("/proc/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    if (line.ends_with(" " + path)) return line.find(" 00010000 ") != std::string::npos;
  }
  return false;
}

/// The backend under test.
enum class Peer { kGuestioBlk, kQemuStorageDaemon };

class VerifyTest : public BackendTest, public ::testing::WithParamInterface<Peer> {
 protected:
  void SetUp() override {
    if (GetParam() == Peer::kGuestioBlk) {
      start({"--num-queues", "2"});
      return;
    }
    backend_ = std::make_unique<testing::ChildProcess>(std::vector<std::string>{
        "/usr/bin/qemu-storage-daemon", "--blockdev",
        "driver=file,node-name=f0,filename=" + image_ +
            ",cache.direct=on,aio=io_uring,discard=unmap",
        "--export",
        "type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path=" + socket_ +
            ",writable=on,num-queues=2"});
    ASSERT_TRUE(wait_until([&] { return is_accepting(socket_); })) << backend_->output();
  }

  std::string load(std::vector<std::string> arguments, int expected_status = 0) {
    arguments.insert(arguments.begin(), kLoadProgram);
    arguments.insert(arguments.end(), {"--socket-path", socket_});
    testing::ChildProcess child(arguments);
    EXPECT_EQ(child.wait(std::chrono::seconds(240)), expected_status)
        << child.output() << backend_->output();
    return child.output();
  }
};

TEST_P(VerifyTest, EveryByteIsWhereItBelongs) {
  const std::string output =
      load({"verify", "--ops", operations(20000), "--seed", "7", "--iodepth", "32"});
  EXPECT_NE(output.find(operations(20000)), std::string::npos) << output;
}

TEST_P(VerifyTest, EveryByteIsWhereItBelongsOnTwoQueues) {
  load({"verify", "--ops", operations(10000), "--seed", "8", "--iodepth", "16", "--numjobs", "2"});
}

TEST_P(VerifyTest, InfoShowsTheDisk) {
  const auto json = nlohmann::json::parse(load({"info", "--output-format=json"}));
  EXPECT_NE(json.dump().find("VIRTIO_BLK_F_FLUSH"), std::string::npos) << json.dump(2);
}

TEST_P(VerifyTest, ALoadIsMeasured) {
  const auto json =
      measure([this](auto words) { return load(words); },
              {"run", "--rw", "randrw", "--bs", "4k", "--iodepth", "8"}, {"read", "write"});
  EXPECT_GT(json["jobs"][0]["read"]["iops"].get<double>(), 0) << json.dump(2);
  EXPECT_GT(json["jobs"][0]["write"]["iops"].get<double>(), 0) << json.dump(2);
}

INSTANTIATE_TEST_SUITE_P(, VerifyTest,
                         ::testing::Values(Peer::kGuestioBlk, Peer::kQemuStorageDaemon),
                         [](const auto& instance) {
                           return instance.param == Peer::kGuestioBlk ? "GuestioBlk"
                                                                      : "QemuStorageDaemon";
                         });

/// Only guestio-blk: QEMU's storage daemon has no packed rings.
class VerifyPackedTest : public BackendTest {
 protected:
  std::string load(std::vector<std::string> arguments, int expected_status = 0) {
    arguments.insert(arguments.begin(), kLoadProgram);
    arguments.insert(arguments.end(), {"--packed", "--socket-path", socket_});
    testing::ChildProcess child(arguments);
    EXPECT_EQ(child.wait(std::chrono::seconds(240)), expected_status)
        << child.output() << backend_->output();
    return child.output();
  }
};

TEST_F(VerifyPackedTest, EveryByteIsWhereItBelongsOnTwoQueues) {
  start({"--num-queues", "2"});
  load({"verify", "--ops", operations(20000), "--seed", "7", "--iodepth", "32", "--numjobs", "2"});
}

TEST_F(VerifyPackedTest, EveryByteIsWhereItBelongsWithoutEventIndexAndIndirectDescriptors) {
  start();
  load({"verify", "--ops", operations(5000), "--seed", "9", "--no-event-idx", "--no-indirect"});
}

TEST_F(VerifyPackedTest, ALoadIsMeasuredAndTheDiskShown) {
  start();
  const auto json = measure([this](auto words) { return load(words); },
                            {"run", "--rw", "randread", "--iodepth", "8"}, {"read"});
  EXPECT_GT(json["jobs"][0]["read"]["iops"].get<double>(), 0) << json.dump(2);
  EXPECT_NE(load({"info"}).find("VIRTIO_F_RING_PACKED"), std::string::npos);
}

TEST_F(VerifyPackedTest, PackedRingOffWithdrawsTheFeature) {
  start({"--packed-ring", "off"});
  load({"info"}, 1);
}

/// Only guestio-blk: other kinds of image.
class VerifyImageTest : public BackendTest {
 protected:
  void verify(const std::vector<std::string>& options = {}) {
    start(options);
    testing::ChildProcess child({kLoadProgram, "verify", "--ops", operations(10000), "--seed", "3",
                                 "--iodepth", "32", "--socket-path", socket_});
    EXPECT_EQ(child.wait(std::chrono::seconds(240)), 0) << child.output() << backend_->output();
    stop();
  }
};

TEST_F(VerifyImageTest, Buffered) { verify({"--buffered"}); }

/// guestio-load's memory is registered, or the memory-lock limit forbids it; then the log says so
/// and the same bytes arrive.
class VerifyRegisteredTest : public BackendTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override { start({"--num-queues", "2", "--fixed-buffers", "on", "--verbose"}); }
  std::string ring_kind() { return GetParam(); }
};

TEST_P(VerifyRegisteredTest, EveryByteIsWhereItBelongs) {
  std::vector<std::string> arguments = {kLoadProgram, "verify", "--ops",         operations(10000),
                                        "--seed",     "5",      "--iodepth",     "32",
                                        "--numjobs",  "2",      "--socket-path", socket_};
  if (ring_kind() == "Packed") arguments.push_back("--packed");
  testing::ChildProcess child(arguments);
  EXPECT_EQ(child.wait(std::chrono::seconds(240)), 0) << child.output() << backend_->output();
  stop();
  const std::string log = backend_->output();
  EXPECT_TRUE(log.find("guest memory pinned") != std::string::npos ||
              log.find("guest memory stays unregistered") != std::string::npos)
      << log;
}

INSTANTIATE_TEST_SUITE_P(, VerifyRegisteredTest, ::testing::Values("Split", "Packed"),
                         [](const auto& instance) { return std::string(instance.param); });

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// Two queues on two threads. The limit suffices for their rings, but not for guest memory or a
/// slab of bounce memory (2 MiB).
class VerifyWithoutLockedMemoryTest : public BackendTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0)
      GTEST_SKIP() << "memory locked by the user's other processes counts as well";
    start_under({"/usr/bin/prlimit", "--memlock=1966080:1966080", "/usr/bin/setpriv",
                 "--bounding-set", "-ipc_lock"},
                {"--num-queues", "2", "--fixed-buffers", "on"});
  }
};

TEST_F(VerifyWithoutLockedMemoryTest, EveryByteIsWhereItBelongsAndEachRefusalIsLoggedOnce) {
  testing::ChildProcess child({kLoadProgram, "verify", "--ops", operations(5000), "--seed", "6",
                               "--iodepth", "32", "--numjobs", "2", "--socket-path", socket_});
  EXPECT_EQ(child.wait(std::chrono::seconds(240)), 0) << child.output() << backend_->output();
  stop();
  const std::string log = backend_->output();
  EXPECT_EQ(count(log, "guest memory stays unregistered"), 1U) << log;
  EXPECT_EQ(count(log, "bounce memory stays unregistered"), 1U) << log;
  EXPECT_EQ(count(log, "CAP_IPC_LOCK"), 2U) << log;
}

TEST_F(VerifyImageTest, WithSubmissionThreads) {
  verify({"--num-queues", "2", "--threads", "1", "--sqpoll"});
}

/// Whether or not the image's device supports polling; without support one line is logged.
TEST_F(VerifyImageTest, WithPollingOfTheDevice) {
  verify({"--iopoll"});
  EXPECT_LE(count(backend_->output(), "--iopoll"), 1U) << backend_->output();
}

TEST_F(VerifyImageTest, WithLittleBounceMemory) { verify({"--bounce-limit", "64k"}); }

TEST_F(VerifyImageTest, WithBlocksOfFourKibibytes) { verify({"--block-size", "4096"}); }

TEST_F(VerifyImageTest, InMemory) {
  const testing::MemoryFile file(kImageBytes);
  image_ = file.path();
  verify();
}

TEST_F(VerifyImageTest, SectorsOnADeviceOfFourKibibyteBlocks) {
  const testing::LoopDevice device(image_, 4096);
  if (device.path().empty()) GTEST_SKIP() << "loop devices need root";
  image_ = device.path();
  verify();
}

}  // namespace
}  // namespace guestio::tests
