// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/message_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <vector>

#include "testing/descriptor_limit.h"

namespace guestio::vhost {
namespace {

using std::chrono::milliseconds;

Deadline expired() { return Deadline::clock::now() + std::chrono::seconds(60); }

/// The two ends of a connection.
struct MessageSocketTest : ::testing::Test {
  MessageSocketTest() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    near.emplace(UniqueFd(ends[0]));
    far.emplace(UniqueFd(ends[1]));
  }
  template <typename T>
  void send_raw(const T& value) {
    ASSERT_EQ(::write(far->fd(), &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
  }
  /// Sends one byte with `count` copies of standard error's descriptor.
  void send_descriptors(std::size_t count) {
    std::vector<int> fds(count, STDERR_FILENO);
    std::vector<std::byte> control(CMSG_SPACE(count * sizeof(int)));
    std::byte byte{1};
    iovec part{&byte, 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), count * sizeof(int));
    ASSERT_EQ(::sendmsg(far->fd(), &message, 0), 1);
  }

  std::optional<MessageSocket> near;
  std::optional<MessageSocket> far;
  Message message;
};

std::size_t open_descriptors() {
  std::size_t count = 0;
  for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) != -1 ? 1 : 0;
  return count;
}

TEST_F(MessageSocketTest, AMessageArrivesWithItsPayload) {
  const VringState state{3, 256};
  ASSERT_TRUE(far->send(8, kMessageVersion | kMessageNeedReply, std::as_bytes(std::span(&state, 1)),
                        {}, expired()));
  ASSERT_TRUE(near->receive(message, expired()));
  EXPECT_EQ(message.header.request, 8u);
  EXPECT_EQ(message.header.flags, kMessageVersion | kMessageNeedReply);
  ASSERT_TRUE(message.as<VringState>().has_value());
  EXPECT_EQ(message.as<VringState>()->num, 256u);
  EXPECT_FALSE(message.as<std::uint32_t>().has_value()) << "another size";
  EXPECT_TRUE(message.descriptors.is_empty());
}

TEST_F(MessageSocketTest, DescriptorsArriveInOrderAndCloseOnExec) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd reader(pipe[0]);
  const UniqueFd writer(pipe[1]);
  ASSERT_TRUE(far->send(5, kMessageVersion, {}, pipe, expired()));
  ASSERT_TRUE(near->receive(message, expired()));
  ASSERT_EQ(message.descriptors.size(), 2u);
  const UniqueFd second = message.descriptors.take(1);
  EXPECT_EQ(::fcntl(second.get(), F_GETFD), FD_CLOEXEC);
  ASSERT_EQ(::write(second.get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(::read(reader.get(), &byte, 1), 1);
}

TEST_F(MessageSocketTest, Rule6DescriptorsNotTakenAreClosed) {
  const std::size_t before = open_descriptors();
  const std::array<int, 1> fds = {STDERR_FILENO};
  ASSERT_TRUE(far->send(5, kMessageVersion, {}, fds, expired()));
  ASSERT_TRUE(near->receive(message, expired()));
  EXPECT_EQ(open_descriptors(), before + 1);
  ASSERT_TRUE(far->send(1, kMessageVersion, {}, {}, expired()));
  ASSERT_TRUE(near->receive(message, expired()));
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(MessageSocketTest, AMessageInPartsIsReassembled) {
  std::thread sender([this] {
    const std::array<std::uint32_t, 5> words = {8, kMessageVersion, 8, 1, 2};
    for (const std::byte& byte : std::as_bytes(std::span(words))) send_raw(byte);
  });
  EXPECT_TRUE(near->receive(message, expired()));
  EXPECT_EQ(message.as<VringState>()->num, 2u);
  sender.join();
}

TEST_F(MessageSocketTest, ALargeMessageGoesThroughASmallSocketBuffer) {
  const int small = 1;
  ASSERT_EQ(::setsockopt(far->fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
  const std::vector<std::byte> payload(kMaxPayload, std::byte{7});
  std::thread sender([&] {
    for (int i = 0; i < 8; ++i) EXPECT_TRUE(far->send(1, kMessageVersion, payload, {}, expired()));
  });
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(near->receive(message, expired()));
    EXPECT_TRUE(std::ranges::equal(message.payload(), payload));
  }
  sender.join();
}

TEST_F(MessageSocketTest, Rule12AMalformedMessageIsAPeerFault) {
  send_raw(MessageHeader{1, 2, 0});
  EXPECT_EQ(near->receive(message, expired()).error().kind, ErrorKind::kPeerFault) << "version";
  send_raw(MessageHeader{1, kMessageVersion, kMaxPayload + 1});
  EXPECT_EQ(near->receive(message, expired()).error().kind, ErrorKind::kPeerFault) << "size";
  send_raw(MessageHeader{1, kMessageVersion, 0xffffffff});
  EXPECT_EQ(near->receive(message, expired()).error().kind, ErrorKind::kPeerFault) << "size";
}

TEST_F(MessageSocketTest, TooManyDescriptorsAreAPeerFaultAndAllAreClosed) {
  const std::size_t before = open_descriptors();
  for (const std::size_t count : {9u, 20u, 253u}) {
    send_descriptors(count);
    EXPECT_EQ(near->receive(message, expired()).error().kind, ErrorKind::kPeerFault) << count;
    message.descriptors.clear();
    EXPECT_EQ(open_descriptors(), before) << count;
  }
}

TEST_F(MessageSocketTest, Rule48ALackOfDescriptorsIsAHostFailure) {
  send_descriptors(3);
  const std::size_t before = open_descriptors();
  {
    const testing::DescriptorLimit limit(1);
    const auto received = near->receive(message, expired());
    ASSERT_FALSE(received.has_value());
    EXPECT_EQ(received.error().kind, ErrorKind::kHost) << received.error().to_string();
    EXPECT_EQ(received.error().host_errno, EMFILE);
  }
  message.descriptors.clear();
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(MessageSocketTest, ASilentPeerTimesOut) {
  const Deadline expired = Deadline::clock::now() + milliseconds(20);
  const auto received = near->receive(message, expired);
  ASSERT_FALSE(received.has_value());
  EXPECT_EQ(received.error().host_errno, ETIMEDOUT);
  send_raw(std::uint32_t{1});
  EXPECT_EQ(near->receive(message, expired).error().host_errno, ETIMEDOUT) << "half a header";
}

TEST_F(MessageSocketTest, APeerThatNeverReadsTimesOut) {
  const std::vector<std::byte> payload(kMaxPayload);
  Result<> sent;
  while (sent) {
    sent = near->send(1, kMessageVersion, payload, {}, Deadline::clock::now() + milliseconds(20));
  }
  EXPECT_EQ(sent.error().host_errno, ETIMEDOUT);
}

TEST_F(MessageSocketTest, ADisconnectedPeerIsClosed) {
  send_raw(std::uint64_t{1});
  far.reset();
  EXPECT_EQ(near->receive(message, expired()).error().kind, ErrorKind::kClosed);
  EXPECT_EQ(near->send(1, kMessageVersion, {}, {}, expired()).error().kind, ErrorKind::kClosed);
}

TEST(MessageSocket, AFailedConnectTellsTheCause) {
  EXPECT_EQ(MessageSocket::connect("/nonexistent/socket").error().host_errno, ENOENT);
  EXPECT_EQ(MessageSocket::connect("").error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(MessageSocket::connect(std::string(200, 'x')).error().kind,
            ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace guestio::vhost
