// SPDX-License-Identifier: MIT
// guestio-blk on images of other formats, through its supervised qemu-storage-daemon.
#include <cctype>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using Bytes = std::vector<std::byte>;
using Words = std::vector<std::string>;

Bytes random_bytes(std::size_t size, unsigned seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// The processes that `parent` started and has not waited for.
std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    if (!std::isdigit(entry.path().filename().native().front())) continue;
    std::ifstream file(entry.path() / "stat");
    std::string stat;
    std::getline(file, stat);  // empty when the process has ended
    const auto name_end = stat.rfind(')');
    if (name_end == std::string::npos) continue;
    char state = 0;
    int ppid = 0;
    std::istringstream(stat.substr(name_end + 1)) >> state >> ppid;
    if (ppid == parent && state != 'Z') children.push_back(std::stoi(stat));
  }
  return children;
}

bool is_running(pid_t pid) { return std::filesystem::exists("/proc/" + std::to_string(pid)); }

class FormatDiskTest : public BackendTest {
 protected:
  /// Runs a command of the shell with the images' paths as $1 and $2.
  int run_shell(const std::string& command) const {
    testing::ChildProcess shell({"/bin/sh", "-c", command, "sh", image_, base_});
    return shell.wait().value_or(-1);
  }
  void make_qcow2_with_base() {
    std::ofstream(base_, std::ios::binary)
        .write(reinterpret_cast<const char*>(base_bytes_.data()), std::ssize(base_bytes_));
    ASSERT_EQ(run_shell("qemu-img create -q -f qcow2 -b \"$2\" -F raw \"$1\" 16M"), 0);
  }
  void start_qcow2(Words more = {}) {
    more.insert(more.end(), {"--format", "qcow2", "--control", control_});
    start(more);
  }
  pid_t supervisor() const {
    const auto all = children_of(backend_->pid());
    return all.empty() ? -1 : all.front();
  }
  /// The running daemon.
  pid_t daemon() const {
    const auto all = children_of(supervisor());
    return all.empty() ? -1 : all.front();
  }
  /// Waits until requests have been done since `before`.
  bool wait_for_progress() {
    const auto before = requests_done();
    return wait_until([&] { return requests_done() > before + 100; });
  }
  /// A verified load until verify() ends it.
  std::unique_ptr<testing::ChildProcess> start_verification(unsigned usual) {
    return std::make_unique<testing::ChildProcess>(
        Words{kLoadProgram, "verify", "--socket-path", socket_, "--ops", operations(usual)});
  }

  const std::string base_ = folder_.file("base.img");
  const Bytes base_bytes_ = random_bytes(std::size_t{1} << 20, 1);
};

TEST_F(FormatDiskTest, AGuestReadsTheBackingFileAndWritesTheOverlay) {
  make_qcow2_with_base();
  start_qcow2();
  const auto guest = connect();
  ASSERT_NE(guest, nullptr);
  EXPECT_EQ(guest->config().capacity, kImageBytes / 512);
  const auto read = guest->read(16, 8192);
  ASSERT_EQ(read.status, 0);
  EXPECT_TRUE(std::ranges::equal(read.data, std::span(base_bytes_).subspan(8192, 8192)));
  const Bytes written = random_bytes(4096, 2);
  ASSERT_EQ(guest->write(16, written).status, 0);
  ASSERT_EQ(guest->flush().status, 0);
  stop();
  EXPECT_EQ(run_shell("qemu-img check -q \"$1\""), 0);
  // The base is as before, and the overlay differs by these bytes.
  Bytes expected = base_bytes_;
  std::ranges::copy(written, expected.begin() + 8192);
  for (const auto& [from, bytes] : {std::pair{std::string("\"$2\""), base_bytes_},
                                    std::pair{std::string("\"$1\""), expected}}) {
    const std::string raw = folder_.file("raw");
    ASSERT_EQ(run_shell("qemu-img convert -O raw " + from + " " + raw), 0);
    std::ifstream file(raw, std::ios::binary);
    Bytes found(bytes.size());
    file.read(reinterpret_cast<char*>(found.data()), std::ssize(found));
    EXPECT_TRUE(found == bytes) << from;
  }
}

TEST_F(FormatDiskTest, AnImageSurvivesVerifiedLoadWhileItsDaemonIsKilled) {
  make_qcow2_with_base();
  start_qcow2();
  const auto load = start_verification(6000);
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(wait_for_progress()) << load->output() << backend_->output();
    pid_t killed = -1;
    ASSERT_TRUE(wait_until([&] { return (killed = daemon()) > 0; }));
    ASSERT_EQ(::kill(killed, SIGKILL), 0);
    ASSERT_TRUE(wait_until([&] {
      const pid_t now = daemon();
      return now > 0 && now != killed;
    })) << backend_->output();
  }
  EXPECT_EQ(load->wait(), 0) << load->output() << backend_->output();
  EXPECT_NE(backend_->output().find("qemu-storage-daemon ended and starts again"),
            std::string::npos)
      << backend_->output();
  EXPECT_NE(backend_->output().find("were sent again"), std::string::npos) << backend_->output();
  stop();
  // A killed daemon leaks clusters at most.
  EXPECT_EQ(run_shell("qemu-img check -q -r leaks \"$1\" && qemu-img check -q \"$1\""), 0);
}

TEST_F(FormatDiskTest, AKilledSupervisorIsReplaced) {
  make_qcow2_with_base();
  start_qcow2();
  const auto load = start_verification(4000);
  ASSERT_TRUE(wait_for_progress());
  const pid_t killed = supervisor();
  ASSERT_GT(killed, 0);
  ASSERT_EQ(::kill(killed, SIGKILL), 0);
  EXPECT_EQ(load->wait(), 0) << load->output() << backend_->output();
  EXPECT_TRUE(wait_until([&] { return supervisor() > 0 && supervisor() != killed; }));
  stop();
  EXPECT_EQ(run_shell("qemu-img check -q -r leaks \"$1\" && qemu-img check -q \"$1\""), 0);
}

TEST_F(FormatDiskTest, ATakeoverKeepsTheDaemon) {
  make_qcow2_with_base();
  start_qcow2();
  const pid_t before = daemon();
  ASSERT_GT(before, 0);
  const auto load = start_verification(6000);
  ASSERT_TRUE(wait_for_progress());
  take_over();
  ASSERT_TRUE(wait_for_progress()) << load->output() << backend_->output();
  EXPECT_TRUE(is_running(before)) << backend_->output();
  EXPECT_EQ(load->wait(), 0) << load->output() << backend_->output();
  stop();
  EXPECT_TRUE(wait_until([&] { return !is_running(before); }));
  EXPECT_EQ(run_shell("qemu-img check -q \"$1\""), 0);
}

TEST_F(FormatDiskTest, UnflushedWritesOutliveTakeoverAndDaemon) {
  make_qcow2_with_base();
  start_qcow2();
  const auto guest = connect();
  ASSERT_NE(guest, nullptr);
  const Bytes written = random_bytes(65536, 5);
  // The daemon has the tables of these clusters in memory only.
  for (std::uint64_t i = 0; i < 4; ++i) ASSERT_EQ(guest->write(4096 + i * 512, written).status, 0);
  const pid_t killed = daemon();
  ASSERT_GT(killed, 0);
  take_over();
  ASSERT_EQ(::kill(killed, SIGKILL), 0);
  for (std::uint64_t i = 0; i < 4; ++i) {
    const auto read = guest->read(4096 + i * 512, written.size());
    ASSERT_EQ(read.status, 0);
    EXPECT_TRUE(read.data == written) << i << backend_->output();
  }
  EXPECT_NE(backend_->output().find("writes since the last flush were sent again"),
            std::string::npos)
      << backend_->output();
  stop();
  EXPECT_EQ(run_shell("qemu-img check -q -r leaks \"$1\" && qemu-img check -q \"$1\""), 0);
}

TEST_F(FormatDiskTest, NothingIsLeftOfAnEndedProcess) {
  make_qcow2_with_base();
  for (const int signal : {SIGTERM, SIGKILL}) {
    start_qcow2();
    const pid_t outer = supervisor();
    const pid_t inner = daemon();
    ASSERT_GT(outer, 0);
    ASSERT_GT(inner, 0);
    backend_->send_signal(signal);
    EXPECT_TRUE(backend_->wait().has_value());
    EXPECT_TRUE(wait_until([&] { return !is_running(outer) && !is_running(inner); }));
    // The lock of the image is free.
    EXPECT_EQ(run_shell("qemu-img check -q \"$1\""), 0);
  }
}

TEST_F(FormatDiskTest, RefusalsHaveTheDaemonsWords) {
  const Outcome missing =
      run({"--socket-path", socket_, "--blk-file", folder_.file("missing"), "--format", "qcow2"});
  EXPECT_EQ(missing.status, 2) << missing.output;
  EXPECT_NE(missing.output.find("No such file"), std::string::npos) << missing.output;
  const Outcome wrong = run({"--socket-path", socket_, "--blk-file", image_, "--format", "qcow2"});
  EXPECT_EQ(wrong.status, 2) << wrong.output;
  EXPECT_NE(wrong.output.find("not in qcow2 format"), std::string::npos) << wrong.output;
  // Our own words for the daemon say nothing to the operator.
  EXPECT_EQ(wrong.output.find("--blockdev"), std::string::npos) << wrong.output;
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, "--format", "qcow3"}),
                    "qcow2");
}

TEST_F(FormatDiskTest, TheWholeImageIsServedReadOnly) {
  make_qcow2_with_base();
  start_qcow2({"--read-only"});
  const auto guest = connect();
  ASSERT_NE(guest, nullptr);
  EXPECT_EQ(guest->read(0, 4096).status, 0);
  EXPECT_NE(guest->write(0, random_bytes(512, 3)).status, 0);
  stop();
}

struct Format {
  std::string name;
  std::string create;
  Words options;
};

class EachFormatTest : public FormatDiskTest, public ::testing::WithParamInterface<Format> {};

TEST_P(EachFormatTest, KeepsWhatAGuestWrote) {
  ASSERT_EQ(run_shell("rm -f \"$1\"; printf secret > \"$2\"; " + GetParam().create), 0);
  Words more = GetParam().options;
  for (std::string& word : more) {
    if (word == "KEY") word = base_;
  }
  start(more);
  const Bytes written = random_bytes(65536, 4);
  {
    const auto guest = connect();
    ASSERT_NE(guest, nullptr);
    ASSERT_EQ(guest->write(2048, written).status, 0) << backend_->output();
    ASSERT_EQ(guest->flush().status, 0);
  }
  stop();
  start(more);
  const auto guest = connect();
  ASSERT_NE(guest, nullptr);
  const auto read = guest->read(2048, written.size());
  EXPECT_EQ(read.status, 0);
  EXPECT_TRUE(read.data == written);
  stop();
}

INSTANTIATE_TEST_SUITE_P(
    Formats, EachFormatTest,
    ::testing::Values(Format{"vmdk", "qemu-img create -q -f vmdk \"$1\" 16M", {"--format", "vmdk"}},
                      Format{"vdi", "qemu-img create -q -f vdi \"$1\" 16M", {"--format", "vdi"}},
                      Format{"vhdx", "qemu-img create -q -f vhdx \"$1\" 16M", {"--format", "vhdx"}},
                      Format{"vpc", "qemu-img create -q -f vpc \"$1\" 16M", {"--format", "vpc"}},
                      Format{"luks",
                             "qemu-img create -q -f luks --object secret,id=k,file=\"$2\" -o "
                             "key-secret=k,iter-time=10 \"$1\" 16M",
                             {"--format", "luks", "--key-file", "KEY"}}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace guestio::tests
