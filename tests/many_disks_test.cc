// SPDX-License-Identifier: MIT
// Several disks in one guestio-blk, each served in isolation.
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

class ManyDisksTest : public BackendTest {
 protected:
  struct Disk {
    std::string socket;
    std::string image;
    [[nodiscard]] std::string option(const std::string& more = "") const {
      return "socket-path=" + socket + ",blk-file=" + image + more;
    }
  };

  Disk make_disk(const std::string& name) {
    return {folder_.file(name + ".sock"), folder_.make_image(name + ".img", kImageBytes)};
  }
  void start_with(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), kBackendProgram);
    backend_ = std::make_unique<testing::ChildProcess>(arguments);
  }
  void wait_for(const Disk& disk) {
    ASSERT_TRUE(backend_->wait_for_output(disk.socket)) << backend_->output();
  }
  std::unique_ptr<testing::BlkGuest> guest_of(const Disk& disk,
                                              const testing::BlkGuest::Options& options = {}) {
    auto guest = testing::BlkGuest::connect(disk.socket, options);
    EXPECT_TRUE(guest.has_value()) << guest.error().to_string() << "\n" << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  std::string config(const std::string& text) {
    const std::string path = folder_.file("guestio.toml");
    std::ofstream(path) << text;
    return path;
  }
  int count_lines(const std::string& text) {
    const std::string output = backend_->output();
    int count = 0;
    for (auto at = output.find(text); at != std::string::npos; at = output.find(text, at + 1)) {
      ++count;
    }
    return count;
  }
  static std::vector<std::byte> bytes_of(unsigned value) {
    return std::vector<std::byte>(4096, static_cast<std::byte>(value));
  }
};

TEST_F(ManyDisksTest, EachHasItsOwnSocketImageAndSettings) {
  const Disk first = make_disk("first");
  const Disk second = make_disk("second");
  start_with({"--threads", "1", "--disk", first.option(",num-queues=2,name=one"), "--disk",
              second.option(",read-only,serial=a,,b")});
  wait_for(second);
  const auto one = guest_of(first);
  const auto other = guest_of(second);
  EXPECT_EQ(one->write(8, bytes_of(1)).status, 0);
  EXPECT_EQ(other->write(8, bytes_of(2)).status, 1) << "read-only";
  EXPECT_EQ(one->read(8, 4096).data, bytes_of(1));
  EXPECT_EQ(other->read(8, 4096).data, bytes_of(0));
  EXPECT_EQ(one->config().num_queues, 2);
  EXPECT_EQ(other->config().num_queues, 1);
  EXPECT_NE(backend_->output().find("one: serves " + first.image), std::string::npos)
      << backend_->output();
  EXPECT_NE(backend_->output().find("disk1: serves " + second.image), std::string::npos);
  stop();
  EXPECT_FALSE(std::filesystem::exists(first.socket));
  EXPECT_FALSE(std::filesystem::exists(second.socket));
}

TEST_F(ManyDisksTest, AConfigFileIsEquivalentToTheCommandLine) {
  const Disk first = make_disk("first");
  const Disk second = make_disk("second");
  const Disk third = make_disk("third");
  const std::string path =
      config("threads = 1\ncpus = [" + std::to_string(allowed_processors().front()) +
             "]\npoll = \"fixed\"\npoll-max-us = 1\nverbose = true\n"
             "[[disk]]\nsocket-path = \"" +
             first.socket + "\"\nblk-file = \"" + first.image +
             "\"\nname = \"one\"\nnum-queues = 2\nbounce-limit = \"64k\"\n"
             "[[disk]]\nsocket-path = \"" +
             second.socket + "\"\nblk-file = \"" + second.image + "\"\nread-only = true\n");
  start_with({"--config", path, "--disk", third.option()});
  wait_for(third);
  EXPECT_EQ(guest_of(first)->config().num_queues, 2);
  EXPECT_EQ(guest_of(second)->write(8, bytes_of(2)).status, 1);
  EXPECT_EQ(guest_of(third)->write(8, bytes_of(3)).status, 0);
  stop();
}

UniqueFd connect_socket(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
            0);
  return socket;
}

constexpr int kHostileRounds = 300;

/// Repeated protocol violations of a front-end.
void send_malformed_messages(const std::string& path) {
  std::mt19937_64 random(5);
  for (int round = 0; round < kHostileRounds; ++round) {
    const UniqueFd socket = connect_socket(path);
    std::array<std::byte, 200> bytes{};
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    (void)!::send(socket.get(), bytes.data(), 1 + random() % bytes.size(), MSG_NOSIGNAL);
  }
}

/// A driver that fills its ring and tables with random contents.
void overwrite_rings(testing::BlkGuest& guest) {
  std::mt19937_64 random(7);
  const vhost::SharedRange all = guest.memory().whole();
  for (int round = 0; round < kHostileRounds; ++round) {
    for (std::size_t i = 0; i < 16384; ++i) all.host[i] = static_cast<std::byte>(random());
    (void)guest.queue().kick();
  }
}

TEST_F(ManyDisksTest, RateLimitsOfOneDiskSuppressNoLineOfAnother) {
  const Disk quiet = make_disk("quiet");
  const Disk noisy = make_disk("noisy");
  start_with({"--threads", "1", "--disk", quiet.option(",name=quiet"), "--disk",
              noisy.option(",name=noisy")});
  wait_for(noisy);
  send_malformed_messages(noisy.socket);
  EXPECT_NE(guest_of(noisy), nullptr);
  EXPECT_NE(guest_of(quiet), nullptr);
  EXPECT_TRUE(backend_->wait_for_output("quiet: front-end disconnected")) << backend_->output();
  EXPECT_EQ(count_lines("quiet: front-end connected"), 1);
  stop();
}

TEST_F(ManyDisksTest, HostileFrontEndsOfOtherDisksDoNotDisturbADisk) {
  const Disk good = make_disk("good");
  const Disk noisy = make_disk("noisy");
  const Disk wild = make_disk("wild");
  const Disk silent = make_disk("silent");
  start_with({"--threads", "1", "--disk", good.option(), "--disk", noisy.option(), "--disk",
              wild.option(), "--disk", silent.option()});
  wait_for(silent);
  const auto wild_guest = guest_of(wild);
  // In the middle of a message for the whole test.
  const UniqueFd incomplete = connect_socket(silent.socket);
  ASSERT_EQ(::send(incomplete.get(), "abc", 3, MSG_NOSIGNAL), 3);

  {
    const std::jthread malformed([&] { send_malformed_messages(noisy.socket); });
    const std::jthread overwriting([&] { overwrite_rings(*wild_guest); });
    testing::ChildProcess load({kLoadProgram, "verify", "--ops", "2000", "--seed", "7", "--iodepth",
                                "16", "--socket-path", good.socket});
    EXPECT_EQ(load.wait(std::chrono::seconds(240)), 0) << load.output() << backend_->output();
  }
  EXPECT_LT(count_lines("disk1: front-end connected"), kHostileRounds) << "the log is bounded";
  // Well-behaved front-ends are served on these disks afterwards.
  EXPECT_EQ(guest_of(noisy)->read(0, 4096).status, 0);
  stop();
}

TEST_F(ManyDisksTest, TheEndOfOneConnectionLeavesOtherDisksRunning) {
  const Disk listening = make_disk("listening");
  const Disk connected = make_disk("connected");
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  backend_ = std::make_unique<testing::ChildProcess>(
      std::vector<std::string>{
          kBackendProgram, "--disk", listening.option(), "--disk",
          "name=handed,fd=" + std::to_string(theirs.get()) + ",blk-file=" + connected.image},
      theirs.get());
  {
    const auto guest = testing::BlkGuest::from_socket(std::move(ours), {});
    ASSERT_TRUE(guest.has_value());
    EXPECT_EQ((*guest)->read(0, 512).status, 0);
  }
  ::shutdown(theirs.get(), SHUT_RDWR);
  ASSERT_TRUE(backend_->wait_for_output("handed: front-end disconnected")) << backend_->output();
  EXPECT_EQ(guest_of(listening)->read(0, 4096).status, 0);
  stop();
}

TEST_F(ManyDisksTest, InvalidSettingsPrintOneLineAndLeaveNoSocket) {
  const Disk first = make_disk("first");
  const Disk second = make_disk("second");
  const auto with = [&](const std::string& text) {
    return run({"--strict", "--disk", first.option(), "--disk", text});
  };
  const std::string other_socket = "socket-path=" + second.socket;
  expect_diagnostic(with(other_socket + ",blk-file=" + folder_.file("none")), "No such file");
  expect_diagnostic(with(other_socket), "blk-file");
  expect_diagnostic(with("blk-file=" + second.image), "socket-path");
  expect_diagnostic(with(second.option(",colour=red")), "colour");
  expect_diagnostic(with(second.option(",num-queues=0")), "num-queues");
  expect_diagnostic(with(second.option(",read-only=perhaps")), "read-only");
  expect_diagnostic(with(second.option(",name=a b")), "name");
  expect_diagnostic(with(second.option(",name=disk0")), "name disk0 is taken");
  expect_diagnostic(with("socket-path=" + first.socket + ",blk-file=" + second.image),
                    "give each its own");
  expect_diagnostic(with(other_socket + ",blk-file=" + first.image), first.image);
  expect_diagnostic(with("socket-path=" + first.image + ",blk-file=null:1G"), "not a socket");
  expect_diagnostic(run({"--disk", first.option(), "--read-only"}), "--read-only");
  EXPECT_FALSE(std::filesystem::exists(first.socket));
  EXPECT_FALSE(std::filesystem::exists(second.socket));
}

TEST_F(ManyDisksTest, AMalformedConfigFilePrintsOneLineWithThePlace) {
  const auto with = [&](const std::string& text) { return run({"--config", config(text)}); };
  expect_diagnostic(run({"--config", folder_.file("none")}), "cannot be read");
  expect_diagnostic(with(""), "guestio.toml: no disk: add --socket-path");
  expect_diagnostic(with("[[disk"), "guestio.toml:1: syntax error");
  expect_diagnostic(with("\ncolour = 1"), "guestio.toml:2: colour is no setting");
  expect_diagnostic(with("threads = \"two\""), "threads");
  expect_diagnostic(with("threads = -1"), "threads");
  expect_diagnostic(with("cpus = [2.5]"), "cpus takes a plain value");
  expect_diagnostic(with("disk = 1"), "[[disk]]");
  expect_diagnostic(with("[[disk]]\nblk-file = \"null:1G\""), "socket-path");
  const std::string disk = "[[disk]]\nblk-file = \"null:1G\"\nsocket-path = \"/none/s\"\n";
  expect_diagnostic(with(disk + "num-queues = 65"),
                    "guestio.toml:4: num-queues takes 1 to 64, not '65'");
  expect_diagnostic(with(disk + "serial = [1]"), "serial");
  expect_diagnostic(with(disk + "read-only = 1"), "read-only");
}

}  // namespace
}  // namespace guestio::tests
