// SPDX-License-Identifier: MIT
// Permissions of a disk's socket: --socket-mode, --socket-owner and --socket-group.
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

// Unused on any machine.
constexpr uid_t kOwner = 54321;
constexpr gid_t kGroup = 54322;

class SocketAccessTest : public BackendTest {
 protected:
  static struct stat status_of(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
    return status;
  }
  static mode_t mode_of(const std::string& path) { return status_of(path).st_mode & 07777; }

  void expect_access(mode_t mode, uid_t owner, gid_t group) {
    const auto status = status_of(socket_);
    EXPECT_EQ(status.st_mode & 07777, mode);
    EXPECT_EQ(status.st_uid, owner);
    EXPECT_EQ(status.st_gid, group);
  }

  /// The result of connect() for a process of that user and group: 0 or an errno; -1 without such a
  /// process.
  [[nodiscard]] int connect_as(uid_t user, gid_t group) const {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(connect_in_child(user, group));
    int status = -1;
    if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
    return WEXITSTATUS(status);
  }

  void start_with_umask(const char* umask, const std::vector<std::string>& more = {}) {
    start_under({"/bin/sh", "-c", std::string("umask ") + umask + "; exec \"$@\"", "sh"}, more);
  }

 private:
  [[nodiscard]] int connect_in_child(uid_t user, gid_t group) const {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(group, group, group) != 0 ||
        ::setresuid(user, user, user) != 0) {
      return 255;
    }
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof address.sun_path - 1);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    const auto* const name = reinterpret_cast<const sockaddr*>(&address);
    return ::connect(socket.get(), name, sizeof address) == 0 ? 0 : errno;
  }
};

TEST_F(SocketAccessTest, OwnerAndGroupMayConnectByDefaultWhateverTheUmask) {
  for (const char* umask : {"0", "022", "0777"}) {
    start_with_umask(umask);
    expect_access(0660, ::geteuid(), ::getegid());
    stop();
  }
}

TEST_F(SocketAccessTest, TheModeIsTheGivenOneWhateverTheUmask) {
  start_with_umask("0777", {"--socket-mode", "0606"});
  expect_access(0606, ::geteuid(), ::getegid());
  stop();
  start_with_umask("0", {"--socket-mode", "600"});
  expect_access(0600, ::geteuid(), ::getegid());
}

TEST_F(SocketAccessTest, TheControlSocketIsForItsOwnerOnly) {
  start_with_umask("0", {"--socket-mode", "0666", "--control", control_});
  EXPECT_EQ(mode_of(control_), 0600u);
}

TEST_F(SocketAccessTest, UsersAndGroupsAreFoundByName) {
  start({"--socket-owner", std::to_string(::geteuid()), "--socket-group",
         std::to_string(::getegid())});
  expect_access(0660, ::geteuid(), ::getegid());
  stop();
  if (::geteuid() != 0) GTEST_SKIP() << "only root may change the owner of a socket";
  start({"--socket-owner", "nobody", "--socket-group", "nogroup"});
  expect_access(0660, 65534, 65534);
}

TEST_F(SocketAccessTest, TheGroupMayConnectAndOthersMayNot) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may change the owner of a socket";
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
  start({"--socket-group", std::to_string(kGroup)});
  expect_access(0660, 0, kGroup);
  EXPECT_EQ(connect_as(kOwner, kGroup), 0);
  EXPECT_EQ(connect_as(kOwner, kOwner), EACCES);
  stop();
  start({"--socket-mode", "0600", "--socket-owner", std::to_string(kOwner)});
  expect_access(0600, kOwner, ::getegid());
  EXPECT_EQ(connect_as(kOwner, kOwner), 0);
  EXPECT_EQ(connect_as(kGroup, kGroup), EACCES);
}

TEST_F(SocketAccessTest, EachDiskHasItsOwn) {
  const std::string other = folder_.file("other");
  const std::string config = folder_.file("config.toml");
  std::ofstream(config) << "[[disk]]\nsocket-path = \"" << socket_ << "\"\nblk-file = \"" << image_
                        << "\"\nsocket-mode = 0o640\n"
                        << "[[disk]]\nsocket-path = \"" << other
                        << "\"\nblk-file = \"null:1M\"\nsocket-mode = \"0604\"\n";
  const std::string third = folder_.file("third");
  backend_ = std::make_unique<testing::ChildProcess>(std::vector<std::string>{
      kBackendProgram, "--config", config, "--disk",
      "socket-path=" + third +
          ",blk-file=null:1M,socket-mode=0622,socket-group=" + std::to_string(::getegid())});
  ASSERT_TRUE(backend_->wait_for_output("ready")) << backend_->output();
  EXPECT_EQ(mode_of(socket_), 0640u);
  EXPECT_EQ(mode_of(other), 0604u);
  EXPECT_EQ(mode_of(third), 0622u);
}

TEST_F(SocketAccessTest, PersistsAcrossATakeover) {
  const bool is_root = ::geteuid() == 0;
  std::vector<std::string> options = {"--control", control_, "--socket-mode", "0606"};
  if (is_root) options.insert(options.end(), {"--socket-group", std::to_string(kGroup)});
  start(options);
  for (int turn = 0; turn < 2; ++turn) {
    take_over();
    expect_access(0606, ::geteuid(), is_root ? kGroup : ::getegid());
    EXPECT_EQ(mode_of(control_), 0600u);
    expect_alive();
  }
}

TEST_F(SocketAccessTest, InvalidValuesPrintOneLineAndExitWithStatusTwo) {
  for (const auto& [option, value, words] : std::vector<std::array<std::string, 3>>{
           {"--socket-mode", "0668", "--socket-mode takes a mode in octal"},
           {"--socket-mode", "1660", "--socket-mode takes a mode in octal"},
           {"--socket-mode", "-1", "--socket-mode takes a mode in octal"},
           {"--socket-mode", "rw-rw----", "--socket-mode takes a mode in octal"},
           {"--socket-mode", "", "--socket-mode"},
           {"--socket-owner", "no-such-user", "number, not 'no-such-user'"},
           {"--socket-owner", "4294967295", "number, not '4294967295'"},
           {"--socket-group", "no-such-group", "number, not 'no-such-group'"},
           {"--socket-group", "-1", "number, not '-1'"}}) {
    expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, option + "=" + value}),
                      words);
    EXPECT_FALSE(std::filesystem::exists(socket_));
  }
  expect_diagnostic(run({"--disk", "socket-path=" + socket_ + ",blk-file=" + image_ +
                                       ",socket-group=no-such-group"}),
                    "number, not 'no-such-group'");
  expect_diagnostic(run({"--fd", "3", "--blk-file", image_, "--socket-mode", "0660"}),
                    "socket-mode does not go with fd");
}

TEST_F(SocketAccessTest, ADecimalModeInAFileIsRejected) {
  const std::string config = folder_.file("config.toml");
  std::ofstream(config) << "[[disk]]\nsocket-path = \"" << socket_ << "\"\nblk-file = \"" << image_
                        << "\"\nsocket-mode = 660\n";
  expect_diagnostic(run({"--config", config}), "config.toml:4: socket-mode takes");
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

/// The names of the successful system calls in strace's output, in order.
std::vector<std::string> calls_in(const std::string& trace) {
  std::vector<std::string> names;
  std::ifstream lines(trace);
  for (std::string line; std::getline(lines, line);) {
    const auto bracket = line.find('(');
    if (bracket == std::string::npos || line.find(" = -1 ") != std::string::npos) continue;
    const auto begin = line.find_last_of(' ', bracket) + 1;
    names.push_back(line.substr(begin, bracket - begin));
  }
  return names;
}

TEST_F(SocketAccessTest, ModeAndOwnerAreSetBeforeTheSocketListens) {
  if (GUESTIO_IS_SANITIZED) GTEST_SKIP() << "LeakSanitizer does not work under strace";
  const std::string trace = folder_.file("trace");
  // With -D the child of the test is guestio-blk, not strace.
  const std::vector<std::string> strace = {
      "/usr/bin/env", "strace", "-D", "-f",
      "-o",           trace,    "-e", "trace=bind,chmod,fchmodat,chown,lchown,fchownat,listen"};
  {
    std::vector<std::string> probe = strace;
    probe.emplace_back("true");
    testing::ChildProcess child(probe);
    if (child.wait() != 0) GTEST_SKIP() << "tracing is not permitted";
  }
  // The second path is too long to be bound under a temporary name first.
  for (const std::string& path :
       {folder_.file("s"), folder_.file(std::string(106 - folder_.path().size(), 'x'))}) {
    socket_ = path;
    std::vector<std::string> words = strace;
    words.insert(words.end(), {kBackendProgram, "--socket-path", socket_, "--blk-file", image_,
                               "--socket-group", std::to_string(::getegid())});
    testing::ChildProcess traced(words);
    ASSERT_TRUE(traced.wait_for_output("ready")) << traced.output();
    const std::vector<std::string> calls = calls_in(trace);
    ASSERT_EQ(calls.size(), 4u) << ::testing::PrintToString(calls);
    EXPECT_EQ(calls[0], "bind");
    EXPECT_NE(calls[1].find("chmod"), std::string::npos) << calls[1];
    EXPECT_NE(calls[2].find("chown"), std::string::npos) << calls[2];
    EXPECT_EQ(calls[3], "listen");
    const auto guest = connect();
    EXPECT_NE(guest, nullptr);
  }
}

}  // namespace
}  // namespace guestio::tests
