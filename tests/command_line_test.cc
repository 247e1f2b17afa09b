// SPDX-License-Identifier: MIT
// Diagnostics of guestio-blk before it serves.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "testing/environment_variable.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

class CommandLineTest : public BackendTest {
 protected:
  std::vector<std::string> with(const std::string& image, const std::string& socket) {
    return {"--socket-path", socket, "--blk-file", image};
  }
};

TEST_F(CommandLineTest, HelpNamesEveryOption) {
  const Outcome outcome = run({"--help"});
  EXPECT_EQ(outcome.status, 0);
  for (const char* option :
       {"--socket-path",  "--fd",           "--blk-file",    "--disk",
        "--config",       "--name",         "--read-only",   "--num-queues",
        "--serial",       "--block-size",   "--buffered",    "--bounce-limit",
        "--threads",      "--cpus",         "--poll-max-us", "--poll",
        "--on-error",     "--control",      "--ask",         "--fixed-buffers",
        "--sqpoll",       "--sqpoll-cpus",  "--iopoll",      "--print-capabilities",
        "--version",      "--max-ranges",   "--strict",      "--socket-mode",
        "--socket-owner", "--socket-group", "--format"}) {
    EXPECT_NE(outcome.output.find(option), std::string::npos) << option;
  }
}

TEST_F(CommandLineTest, VersionIsOneLine) {
  const Outcome outcome = run({"--version"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "guestio-blk " GUESTIO_PROJECT_VERSION "\n");
}

TEST_F(CommandLineTest, CapabilitiesAreWhatManagementLayersRead) {
  const Outcome outcome = run({"--print-capabilities"});
  EXPECT_EQ(outcome.status, 0);
  const auto json = nlohmann::json::parse(outcome.output);
  EXPECT_EQ(json["type"], "block");
  EXPECT_EQ(json["features"], nlohmann::json({"read-only", "blk-file"}));
}

TEST_F(CommandLineTest, InvalidArgumentsPrintOneLineAndExitWithStatusTwo) {
  expect_diagnostic(run({}), "--socket-path");
  expect_diagnostic(run({"--socket-path", socket_}), "--blk-file");
  expect_diagnostic(run({"--nonsense"}), "--nonsense");
  expect_diagnostic(run({"--socket-path", socket_, "--fd", "3", "--blk-file", image_}), "--fd");
  auto arguments = with(image_, socket_);
  arguments.insert(arguments.end(), {"--num-queues", "0"});
  expect_diagnostic(run(arguments), "--num-queues");
  arguments.back() = "many";
  expect_diagnostic(run(arguments), "--num-queues");
}

TEST_F(CommandLineTest, InvalidSizesAreRejected) {
  for (const auto& [option, value] :
       std::vector<std::pair<std::string, std::string>>{{"--block-size", "513"},
                                                        {"--block-size", "8192"},
                                                        {"--block-size", "x"},
                                                        {"--bounce-limit", "1"},
                                                        {"--max-ranges", "17"},
                                                        {"--threads", "0"},
                                                        {"--threads", "65"},
                                                        {"--cpus", "x"},
                                                        {"--poll", "sometimes"},
                                                        {"--fixed-buffers", "perhaps"},
                                                        {"--poll-max-us", "-1"},
                                                        {"--bounce-limit", "-1"},
                                                        {"--serial", "123456789012345678901"}}) {
    auto arguments = with(image_, socket_);
    arguments.insert(arguments.end(), {option, value});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 2) << option << " " << value << ": " << outcome.output;
    EXPECT_FALSE(std::filesystem::exists(socket_));
  }
}

/// Arguments and the expected words of each diagnostic line: the problem, the place, the fix.
struct BadArguments {
  std::vector<std::string> arguments;
  std::vector<std::vector<std::string>> lines;
};

void expect_lines(const Outcome& outcome, const std::vector<std::vector<std::string>>& lines) {
  EXPECT_EQ(outcome.status, 2) << outcome.output;
  EXPECT_EQ(std::ranges::count(outcome.output, '\n'), std::ssize(lines)) << outcome.output;
  for (const auto& words : lines) {
    std::istringstream text(outcome.output);
    bool is_there = false;
    for (std::string line; std::getline(text, line);) {
      is_there |= std::ranges::all_of(
          words, [&](const std::string& word) { return line.find(word) != std::string::npos; });
    }
    EXPECT_TRUE(is_there) << words.front() << " in\n" << outcome.output;
  }
}

TEST_F(CommandLineTest, EachDiagnosticNamesProblemPlaceAndFix) {
  const std::string one = "socket-path=" + socket_ + ",blk-file=" + image_;
  const std::string other_socket = folder_.file("other");
  const std::vector<std::string> usual = with(image_, socket_);
  const auto usual_and = [&](std::vector<std::string> more) {
    more.insert(more.begin(), usual.begin(), usual.end());
    return more;
  };
  const std::vector<BadArguments> cases = {
      {{}, {{"no disk to serve", "--socket-path PATH", "--blk-file PATH", "--config"}}},
      {{"--sokcet-path", "/s", "--blk-file", image_},
       {{"--sokcet-path", "no option", "did you mean --socket-path?", "--help"}}},
      {{"--thread=2", "--colour", "red", "stray"},
       {{"--thread:", "did you mean --threads?"},
        {"--colour: is no option: --help"},
        {"stray", "belongs to no option"}}},
      {usual_and({"--threads", "0"}), {{"--threads takes 1 to 64, not '0'"}}},
      {usual_and({"--threads", "0", "--poll", "now", "--num-queues", "x"}),
       {{"--threads"}, {"--poll takes adaptive, fixed or always, not 'now'"}, {"--num-queues"}}},
      {usual_and({"--cpus", "60000"}),
       {{"--cpus names processor 60000, which does not exist: choose from"}}},
      {usual_and({"--cpus", "3-1"}), {{"--cpus takes processors, such as", "0-3", "not '3-1'"}}},
      {usual_and({"--fd", "3"}),
       {{"--fd and --socket-path are both given", "leave one of the two out"}}},
      {{"--disk", one + ",fd=3"}, {{"--disk 1: fd and socket-path", "leave one"}}},
      {{"--disk", one + ",name=a", "--disk", one + ",name=a"},
       {{"--disk 2: name a is taken", "--disk 1", "give each its own"},
        {"--disk 2: " + socket_ + " of disk a", "--disk 1", "give each its own"},
        {"--disk 2: " + image_, "--disk 1", "serve it once, or give both read-only"}}},
      {{"--disk", one, "--disk", "socket-path=" + other_socket + ",blk-file=null:1G,colour=1"},
       {{"--disk 2: colour is no setting of a disk"}}},
      {{"--disk", one, "--disk", "socket-path=" + other_socket + ",blkfile=x"},
       {{"--disk 2: blkfile", "did you mean blk-file?"},
        {"--disk 2: blk-file is needed", "add blk-file PATH"}}},
      {{"--disk", one, "--read-only", "--serial", "x"},
       {{"--read-only", "belongs into --disk"}, {"--serial", "belongs into --disk"}}},
      {{"--takeover", control_, "--blk-file", image_, "--config", "x", "--strict"},
       {{"--blk-file: does not go with --takeover"}, {"--config: "}, {"--strict: "}}},
      {{"--config", folder_.path()}, {{folder_.path(), "is a directory", "a file in TOML"}}},
      {{"--config", folder_.file("none")}, {{"none: cannot be read: No such file"}}},
      {{"--config", "/dev/null"}, {{"/dev/null: no disk", "a [[disk]] for each disk"}}},
  };
  for (const BadArguments& bad : cases) expect_lines(run(bad.arguments), bad.lines);
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(CommandLineTest, AnAbsentBackendNamesItsPackage) {
  const testing::EnvironmentVariable nowhere("GUESTIO_MODULE_DIR", folder_.path());
  for (const char* image : {"nbd://host/export", "nbds://host", "nbd+unix:///export?socket=/s"}) {
    expect_lines(run(with(image, socket_)), {{image, "install the package guestio-disk-nbd"}});
  }
  expect_lines(run(with("rbd:pool/image", socket_)),
               {{"install the package guestio-disk-rbd", "reached as ./rbd:pool/image"}});
  expect_lines(run(with("https://host/a.raw", socket_)), {{"there is no backend 'https'"}});
  expect_lines(run(with("disks:1", socket_)), {{"there is no backend 'disks'", "./disks:1"}});
}

TEST_F(CommandLineTest, SettingsOfServersNeedOne) {
  const auto refused = [&](const std::string& image, std::vector<std::string> more,
                           std::vector<std::string> words) {
    std::vector<std::string> arguments = with(image, socket_);
    arguments.insert(arguments.end(), more.begin(), more.end());
    expect_lines(run(arguments), {std::move(words)});
  };
  refused(image_, {"--tls-psk-file", "/k"}, {"tls-psk-file is for disks with a server"});
  refused("null:1G", {"--io-timeout", "3"}, {"io-timeout is for disks with a server"});
  refused("ram:1G", {"--break-lock"}, {"break-lock is for disks with a server"});
  refused(image_, {"--key-file", "/k"}, {"key-file is for format=luks"});
  refused(image_, {"--format", "luks"}, {"format=luks needs key-file"});
  refused("nbd://host", {"--format", "qcow2"}, {"format=qcow2 is for files"});
  refused("null:1G", {"--create", "1G"}, {"create makes files"});
  refused(image_, {"--create", "1G", "--format", "qcow2"}, {"qemu-img create -f qcow2"});
  refused(image_, {"--create", "1G", "--read-only"}, {"does not go with read-only"});
  refused(image_, {"--create", "1000"}, {"multiple of 4096"});
  refused("nbd://host", {"--io-timeout", "0"}, {"takes 1 to 3600"});
  refused("rbd:a/b", {"--encryption", "luks"}, {"takes luks1 or luks2"});
  refused("nbd://host", {"--shutdown-timeout", "0"}, {"takes 1 to 3600"});
}

TEST_F(CommandLineTest, CreateMakesAMissingImageAndLeavesOthersAlone) {
  const std::string fresh = folder_.file("new.img");
  const std::string kept = image_;
  const auto kept_size = std::filesystem::file_size(kept);
  image_ = fresh;
  start({"--create", "8M"});
  expect_alive();
  stop();
  EXPECT_EQ(std::filesystem::file_size(fresh), 8U << 20);
  image_ = kept;
  start({"--create", "8M"});
  expect_alive();
  stop();
  EXPECT_EQ(std::filesystem::file_size(kept), kept_size);
  // A link to nowhere is something.
  const std::string link = folder_.file("link");
  std::filesystem::create_symlink(folder_.file("absent"), link);
  EXPECT_EQ(run({"--socket-path", socket_, "--blk-file", link, "--create", "8M"}).status, 2);
  EXPECT_FALSE(std::filesystem::exists(folder_.file("absent")));
}

TEST_F(CommandLineTest, AFileMayBeNamedByItsScheme) {
  image_ = "file:" + image_;
  start();
  expect_alive();
}

TEST_F(CommandLineTest, FilesMayHaveAColonInTheirName) {
  // A file with such a name can be served.
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder_.path());
  std::filesystem::rename(image_, "nbd:foo");
  image_ = "./nbd:foo";
  start();
  expect_alive();
  std::filesystem::current_path(before);
}

/// A configuration file and the expected words of each diagnostic line.
struct BadFile {
  std::string text;
  std::vector<std::vector<std::string>> lines;
};

TEST_F(CommandLineTest, DiagnosticsOfAConfigFileNameItsLine) {
  const std::string path = folder_.file("guestio.toml");
  const std::string disk = "[[disk]]\nsocket-path = \"/none/s\"\nblk-file = \"null:1G\"\n";
  const std::vector<BadFile> cases = {
      {"threads = 0\n" + disk, {{path + ":1: threads takes 1 to 64, not '0'"}}},
      {"\nthreads = \"two\"\n" + disk, {{path + ":2: threads takes 1 to 64, not 'two'"}}},
      {"poll = 3\n" + disk, {{path + ":1: poll takes adaptive, fixed or always, not '3'"}}},
      {"poll-max-us = -1\n" + disk, {{path + ":1: poll-max-us takes 0 to"}}},
      {"cpus = [60000]\n" + disk, {{path + ":1: cpus names processor 60000", "choose from"}}},
      {"cpus = [[1]]\n" + disk, {{path + ":1: cpus takes a plain value"}}},
      {"verbose = 1\n" + disk, {{path + ":1: verbose takes on or off, not '1'"}}},
      {"control = \"\"\n" + disk, {{path + ":1: control takes a path"}}},
      {"thread = 1\n" + disk, {{path + ":1: thread is no setting (did you mean threads?)"}}},
      {"num-queues = 1\n" + disk, {{path + ":1: num-queues", "stands under [[disk]]"}}},
      {disk + "cpus = 1\n", {{path + ":4: cpus", "stands above the first [[disk]]"}}},
      {disk + "num-queue = 1\n", {{path + ":4: num-queue", "did you mean num-queues?"}}},
      {disk + "name = \"x\n", {{path + ":4: syntax error", "is a quote closed"}}},
      {disk + "name = \"x", {{path + ":4: syntax error", "is a quote closed"}}},
      {"[[disk]\n" + disk, {{path + ":1: syntax error"}}},
      {"[disk]\nname = \"x\"\n", {{path + ":1: disk: a disk begins with [[disk]]"}}},
      {"[[disk]]\nblk-file = \"null:1G\"\nformat = \"vdi\"\n",
       {{path + ":1: socket-path or fd is needed"}, {path + ":3: format=vdi is for files"}}},
      {disk + "fd = 3\n", {{path + ":4: fd and socket-path are both given", "leave one"}}},
      {disk + disk,
       {{path + ":5: /none/s of disk disk1 is also that of disk disk0 (" + path + ":2)"}}},
      {"threads = 0\n" + disk + "num-queues = 0\n[[disk]]\nname = \"a b\"\ncolour = 1\n",
       {{path + ":1: threads"},
        {path + ":5: num-queues takes 1 to 64, not '0'"},
        {path + ":7: name takes 1 to 32 letters", "not 'a b'"},
        {path + ":8: colour is no setting of a disk"},
        {path + ":6: socket-path or fd is needed"},
        {path + ":6: blk-file is needed"}}},
  };
  for (const BadFile& bad : cases) {
    std::ofstream(path) << bad.text;
    expect_lines(run({"--config", path}), bad.lines);
  }
  EXPECT_FALSE(std::filesystem::exists("/none"));
}

TEST_F(CommandLineTest, CpuRangesAreAcceptedOnTheCommandLineAndInAFile) {
  const int first = allowed_processors().front();
  const std::string range = std::to_string(first) + "-" + std::to_string(first) + ":2";
  start({"--cpus", range});
  expect_alive();
  stop();
  const std::string path = folder_.file("guestio.toml");
  std::ofstream(path) << "cpus = \"" << range << "\"\n[[disk]]\nsocket-path = \"" << socket_
                      << "\"\nblk-file = \"" << image_ << "\"\n";
  backend_ = std::make_unique<testing::ChildProcess>(
      std::vector<std::string>{kBackendProgram, "--config", path});
  ASSERT_TRUE(backend_->wait_for_output("serves ")) << backend_->output();
  expect_alive();
}

TEST_F(CommandLineTest, AMissingImageIsNotCreated) {
  const std::string missing = folder_.file("missing.img");
  expect_diagnostic(run(with(missing, socket_)), "No such file");
  EXPECT_FALSE(std::filesystem::exists(missing));
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(CommandLineTest, ADirectoryAndACharacterDeviceAreRejected) {
  expect_diagnostic(run(with(folder_.path(), socket_)), "directory");
  expect_diagnostic(run(with("/dev/null", socket_)), "/dev/null");
}

TEST_F(CommandLineTest, ALockedImageIsRejected) {
  start();
  expect_diagnostic(run(with(image_, folder_.file("other"))), "busy");
  auto reader = with(image_, folder_.file("other"));
  reader.push_back("--read-only");
  expect_diagnostic(run(reader), "busy");
  expect_alive();
}

TEST_F(CommandLineTest, ASocketInUseIsNotReplaced) {
  start();
  expect_diagnostic(run(with(folder_.make_image("other.img", 4096), socket_)), "busy");
  expect_alive();
}

TEST_F(CommandLineTest, AnOverlongSocketPathIsRejected) {
  expect_diagnostic(run(with(image_, folder_.file(std::string(120, 'x')))), "too large");
}

TEST_F(CommandLineTest, AFileAtTheSocketPathIsNotRemoved) {
  const std::string file = folder_.make_image("precious", 10);
  expect_diagnostic(run(with(image_, file)), "socket");
  EXPECT_EQ(std::filesystem::file_size(file), 10u);
}

TEST_F(CommandLineTest, AStaleSocketIsReplaced) {
  start();
  backend_->send_signal(SIGKILL);
  ASSERT_EQ(backend_->wait(), 128 + SIGKILL);
  ASSERT_TRUE(std::filesystem::exists(socket_));
  start();
  expect_alive();
}

TEST_F(CommandLineTest, TheSocketIsRemovedOnExit) {
  start();
  stop();
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(CommandLineTest, AReadOnlyFileIsServedOnlyReadOnly) {
  ASSERT_EQ(::chmod(image_.c_str(), 0400), 0);
  start({"--read-only"});
  const auto guest = connect();
  EXPECT_EQ(guest->read(0, 512).status, 0);
  EXPECT_EQ(guest->write(0, std::vector<std::byte>(512)).status, 1);
  EXPECT_EQ(guest->flush().status, 0);
}

TEST_F(CommandLineTest, AListeningSocketIsInheritedByNumber) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(socket.get(), 1), 0);
  backend_ = std::make_unique<testing::ChildProcess>(
      std::vector<std::string>{kBackendProgram, "--fd", std::to_string(socket.get()), "--blk-file",
                               image_},
      socket.get());
  expect_alive();
  stop();
  EXPECT_TRUE(std::filesystem::exists(socket_)) << "an inherited socket is not removed";
}

TEST_F(CommandLineTest, AConnectedSocketIsServedUntilItCloses) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  testing::ChildProcess child(
      {kBackendProgram, "--fd", std::to_string(theirs.get()), "--blk-file", image_}, theirs.get());
  auto guest = testing::BlkGuest::from_socket(std::move(ours), {});
  ASSERT_TRUE(guest.has_value());
  EXPECT_EQ((*guest)->read(0, 512).status, 0);
  guest->reset();
  ::shutdown(theirs.get(), SHUT_RDWR);
  EXPECT_EQ(child.wait(), 0) << child.output();
}

/// Lets io_uring_setup() fail with `error_number` in the calling thread and its children.
bool forbid_io_uring(int error_number) {
  std::array<sock_filter, 4> program = {
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K,
                           SECCOMP_RET_ERRNO | static_cast<unsigned>(error_number)),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST_F(CommandLineTest, WithoutIoUringTheLikelyRestrictionsAreNamed) {
  const auto run_under_filter = [&](int error_number) {
    Outcome outcome{};
    bool is_forbidden = false;
    // The filter stays with its thread.
    std::jthread([&] {
      is_forbidden = forbid_io_uring(error_number);
      if (is_forbidden) outcome = run(with(image_, socket_));
    }).join();
    EXPECT_TRUE(is_forbidden);
    return outcome;
  };
  for (const int refusal : {EPERM, ENOSYS}) {
    expect_lines(run_under_filter(refusal),
                 {{"cannot use io_uring", "kernel.io_uring_disabled", "seccomp profile"}});
  }
  expect_lines(run_under_filter(ENOMEM), {{"cannot use io_uring", "RLIMIT_MEMLOCK is"}});
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

}  // namespace
}  // namespace guestio::tests
