// SPDX-License-Identifier: MIT
#include "guestio/vhost/listener.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "guestio/vhost/socket.h"
#include "testing/temporary.h"

namespace guestio::vhost {
namespace {

class ListenerTest : public ::testing::Test {
 protected:
  bool exists() {
    struct ::stat status{};
    return ::lstat(path_.c_str(), &status) == 0;
  }
  testing::TemporaryFolder folder_;
  std::string path_ = folder_.file("socket");
};

TEST_F(ListenerTest, CanBeConnectedToAndCleansUp) {
  {
    const auto listener = Listener::listen_at(path_);
    ASSERT_TRUE(listener.has_value());
    EXPECT_TRUE(MessageSocket::connect(path_).has_value());
  }
  EXPECT_FALSE(exists());
}

TEST_F(ListenerTest, ALiveListenerKeepsItsPath) {
  const auto first = Listener::listen_at(path_);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(Listener::listen_at(path_).error().kind, ErrorKind::kBusy);
  EXPECT_TRUE(MessageSocket::connect(path_).has_value());
}

TEST_F(ListenerTest, APathThatIsAnotherFileIsKept) {
  const std::string file = folder_.make_image("socket", 3);
  EXPECT_EQ(Listener::listen_at(file).error().kind, ErrorKind::kUnsupported);
  EXPECT_TRUE(exists());
}

TEST_F(ListenerTest, DoesNotRemoveAPathThatBecameAnothers) {
  auto first = Listener::listen_at(path_);
  ASSERT_TRUE(first.has_value());
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  const auto second = Listener::listen_at(path_);
  ASSERT_TRUE(second.has_value());
  {
    const Listener gone = std::move(*first);
  }
  EXPECT_TRUE(exists());
}

TEST_F(ListenerTest, ALongPathIsTakenUpToTheSystemsLimit) {
  const std::string longest = path_ + std::string(107 - path_.size(), 'x');
  EXPECT_TRUE(Listener::listen_at(longest).has_value());
  EXPECT_EQ(Listener::listen_at(longest + "x").error().kind, ErrorKind::kTooLarge);
}

}  // namespace
}  // namespace guestio::vhost
