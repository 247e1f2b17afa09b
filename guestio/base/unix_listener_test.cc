// SPDX-License-Identifier: MIT
#include "guestio/base/unix_listener.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "testing/temporary.h"

namespace guestio {
namespace {

class UnixListenerTest : public ::testing::Test {
 protected:
  bool exists() {
    struct ::stat status{};
    return ::lstat(path_.c_str(), &status) == 0;
  }
  mode_t mode() {
    struct ::stat status{};
    EXPECT_EQ(::lstat(path_.c_str(), &status), 0);
    return status.st_mode & 07777;
  }
  /// Whether path_ has a listener.
  bool can_connect() {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
           0;
  }
  testing::TemporaryDirectory folder_;
  std::string path_ = folder_.file("socket");
};

TEST_F(UnixListenerTest, AcceptsConnectionsAndRemovesItsPath) {
  {
    const auto listener = UnixListener::listen_at(path_);
    ASSERT_TRUE(listener.has_value());
    EXPECT_TRUE(can_connect());
  }
  EXPECT_FALSE(exists());
}

TEST_F(UnixListenerTest, ALiveListenerKeepsItsPath) {
  const auto first = UnixListener::listen_at(path_);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(UnixListener::listen_at(path_).error().kind, ErrorKind::kBusy);
  EXPECT_TRUE(can_connect());
}

TEST_F(UnixListenerTest, AFileOfAnotherKindIsKept) {
  const std::string file = folder_.make_image("socket", 3);
  EXPECT_EQ(UnixListener::listen_at(file).error().kind, ErrorKind::kUnsupported);
  EXPECT_TRUE(exists());
}

TEST_F(UnixListenerTest, KeepsAPathThatNamesAnotherSocket) {
  auto first = UnixListener::listen_at(path_);
  ASSERT_TRUE(first.has_value());
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const auto second = UnixListener::listen_at(path_);
  ASSERT_TRUE(second.has_value());
  {
    const UnixListener gone = std::move(*first);
  }
  EXPECT_TRUE(exists());
}

TEST_F(UnixListenerTest, AcceptsPathsUpToTheSystemLimit) {
  const std::string longest = path_ + std::string(107 - path_.size(), 'x');
  EXPECT_TRUE(UnixListener::listen_at(longest).has_value());
  EXPECT_EQ(UnixListener::listen_at(longest + "x").error().kind, ErrorKind::kTooLarge);
}

/// Changes the process's umask for its lifetime.
class UmaskFor {
 public:
  explicit UmaskFor(mode_t mask) : before_(::umask(mask)) {}
  UmaskFor(const UmaskFor&) = delete;
  UmaskFor& operator=(const UmaskFor&) = delete;
  ~UmaskFor() { ::umask(before_); }

 private:
  mode_t before_;
};

TEST_F(UnixListenerTest, TheModeIsExactWhateverTheUmask) {
  for (const mode_t mask : {0u, 022u, 0777u}) {
    const UmaskFor masked(mask);
    for (const mode_t wanted : {0600u, 0660u, 0606u, 0777u, 0u}) {
      const auto listener =
          UnixListener::listen_at(path_, {.mode = wanted, .owner = {}, .group = {}});
      ASSERT_TRUE(listener.has_value()) << listener.error().to_string();
      EXPECT_EQ(mode(), wanted);
    }
  }
}

TEST_F(UnixListenerTest, ByDefaultOnlyOwnerAndGroupMayConnect) {
  const UmaskFor masked(0);
  const auto listener = UnixListener::listen_at(path_);
  ASSERT_TRUE(listener.has_value());
  EXPECT_EQ(mode(), 0660u);
}

TEST_F(UnixListenerTest, SetsTheOwnerAndGroupOfTheProcess) {
  const auto listener =
      UnixListener::listen_at(path_, {.mode = 0600, .owner = ::geteuid(), .group = ::getegid()});
  ASSERT_TRUE(listener.has_value());
  EXPECT_TRUE(can_connect());
}

TEST_F(UnixListenerTest, RemovesTheSocketIfItsOwnerCannotBeSet) {
  ASSERT_EQ(::chmod(folder_.path().c_str(), 0777), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(54321, 54321, 54321) != 0) ::_exit(2);
    const auto listener = UnixListener::listen_at(path_, {.mode = 0660, .owner = 0, .group = {}});
    ::_exit(!listener && listener.error().host_errno == EPERM ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
}

TEST_F(UnixListenerTest, ReplacesAStaleSocketOfTheSamePid) {
  const std::string hidden = path_ + "." + std::to_string(::getpid());
  {
    const UniqueFd killed(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    hidden.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(killed.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  const auto listener = UnixListener::listen_at(path_);
  ASSERT_TRUE(listener.has_value()) << listener.error().to_string();
  EXPECT_TRUE(can_connect());
}

}  // namespace
}  // namespace guestio
