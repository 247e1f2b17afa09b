// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <csignal>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestio/disk/nbd/test/nbd_client.h"
#include "testing/hostile_nbd_server.h"

namespace guestio::disk {
namespace {

using std::chrono::milliseconds;
using testing::HostileNbdServer;
using testing::kind_of;
using testing::NbdClient;
using testing::NbdHandshake;
using testing::NbdPeer;
using testing::NbdServer;
using testing::TestIo;

class NbdReconnectTest : public ::testing::Test {
 protected:
  static std::unique_ptr<NbdServer> serve(std::vector<std::string> arguments) {
    return NbdServer::nbdkit(std::move(arguments));
  }
  /// The arguments of a server with its last word replaced.
  static std::vector<std::string> with_last(const NbdServer& server, const std::string& word) {
    auto words = server.words();
    words.back() = word;
    return words;
  }
};

TEST_F(NbdReconnectTest, RequestsOfAKilledServerFailAndSucceedAfterItsReturn) {
  const auto server = serve({"file", "IMAGE"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  ASSERT_TRUE(client.fill(0, 'a'));
  ASSERT_TRUE(server->pause());
  std::vector<TestIo*> lost;
  client.set_memory(4096, 'b', 16 * 4096);
  for (std::uint64_t i = 1; i <= 16; ++i) lost.push_back(&client.start(IoKind::kWrite, i * 4096));
  server->stop(SIGKILL);
  for (TestIo* const io : lost) EXPECT_EQ(kind_of(client.wait(*io)), ErrorKind::kClosed);
  EXPECT_FALSE(client.disk().status().is_available);
  EXPECT_EQ(client.disk().status().connections, 0U);
  EXPECT_EQ(kind_of(client.perform(IoKind::kRead, 0)), ErrorKind::kClosed);

  ASSERT_TRUE(server->start());
  client.wait_for_return();
  EXPECT_TRUE(client.disk().status().is_available);
  EXPECT_EQ(client.disk().status().reconnects, 1U);
  for (TestIo* const io : lost) {
    EXPECT_TRUE(client.perform(IoKind::kWrite, io->offset.raw()));
    EXPECT_EQ(client.look(io->offset.raw()), 'b');
  }
  EXPECT_EQ(client.look(0), 'a');
}

TEST_F(NbdReconnectTest, AnIdleDiskNoticesLossAndReturn) {
  const auto server = serve({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  client.add_channel();
  ASSERT_TRUE(client.poll_until([&] { return client.disk().status().connections == 2; }));
  server->stop(SIGKILL);
  ASSERT_TRUE(client.poll_until([&] { return client.disk().status().connections == 0; }));
  ASSERT_TRUE(server->start());
  client.wait_for_return(1);
  EXPECT_EQ(client.disk().status().connections, 2U);
  EXPECT_EQ(client.disk().status().reconnects, 2U);
  EXPECT_EQ(client.look(0), '\0');
}

TEST_F(NbdReconnectTest, ManyRestartsLoseNoRequest) {
  const auto server = serve({"file", "IMAGE"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  for (int round = 0; round < 8; ++round) {
    const int seen = client.available();
    std::vector<TestIo*> started;
    const char value = static_cast<char>('a' + round);
    client.set_memory(0, value, 32 * 4096);
    for (std::uint64_t i = 0; i < 32; ++i)
      started.push_back(&client.start(IoKind::kWrite, i * 4096));
    (void)client.wait(*started[static_cast<std::size_t>(round)]);
    server->stop(SIGKILL);
    ASSERT_TRUE(server->start());
    client.wait_for_return(seen);
    for (TestIo* const io : started) {
      const bool is_done =
          client.wait(*io).has_value() || client.perform(IoKind::kWrite, io->offset.raw());
      ASSERT_TRUE(is_done);
      ASSERT_EQ(client.look(io->offset.raw()), value);
    }
  }
}

TEST_F(NbdReconnectTest, AStoppedServerWithReadsIsLeftAtTheTimeout) {
  const auto server = serve({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri(), milliseconds(100));
  ASSERT_TRUE(client.fill(0, 'a'));
  ASSERT_TRUE(server->pause());
  EXPECT_EQ(kind_of(client.perform(IoKind::kRead, 0)), ErrorKind::kClosed);
  EXPECT_FALSE(client.disk().status().is_available);
  server->resume();
  client.wait_for_return();
  EXPECT_EQ(client.look(0), 'a');
}

TEST_F(NbdReconnectTest, AStoppedServerWithWritesGetsNoConnectionUntilItHasDoneThem) {
  const auto server = serve({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri(), milliseconds(100));
  ASSERT_TRUE(client.fill(0, 'a'));
  ASSERT_TRUE(server->pause());
  EXPECT_EQ(kind_of(client.fill(0, 'b')), ErrorKind::kClosed);
  server->resume();
  client.wait_for_return();
  ASSERT_TRUE(client.fill(0, 'c'));
  EXPECT_EQ(client.look(0), 'c');
}

TEST_F(NbdReconnectTest, UnansweredWritesHoldTheNextConnectionBack) {
  bool has_connected_early = true;
  HostileNbdServer server([&](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    (void)first.receive();
    first.wait_for_end();
    has_connected_early = self.has_pending_connection();
    first.close();
    NbdPeer second = self.accept();
    second.shake_hands();
    const auto request = second.receive();
    if (request) second.reply(request->cookie);
    second.wait_for_end();
  });
  NbdClient client(server.uri(), milliseconds(50));
  EXPECT_EQ(kind_of(client.fill(0, 'a')), ErrorKind::kClosed);
  client.wait_for_return();
  EXPECT_FALSE(has_connected_early);
  EXPECT_TRUE(client.fill(0, 'a'));
}

TEST_F(NbdReconnectTest, AConnectionThatIsGivenUpEndsBetweenTwoRequests) {
  std::promise<void> given_up;
  std::vector<std::uint16_t> types;
  HostileNbdServer server([&](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    given_up.get_future().wait();
    while (const auto request = first.receive()) types.push_back(request->type);
    first.close();
    NbdPeer second = self.accept();
    second.shake_hands();
    second.wait_for_end();
  });
  NbdClient client(server.uri(), milliseconds(50));
  // More than the socket takes.
  constexpr std::uint64_t kBytes = std::uint64_t{512} << 10;
  std::vector<TestIo*> all;
  for (int i = 0; i < 8; ++i) all.push_back(&client.start(IoKind::kWrite, 0, kBytes));
  for (TestIo* const io : all) EXPECT_EQ(kind_of(client.wait(*io)), ErrorKind::kClosed);
  given_up.set_value();
  client.wait_for_return();
  constexpr std::uint16_t kWrite = 1;
  constexpr std::uint16_t kDisconnect = 2;
  ASSERT_GE(types.size(), 2U);
  EXPECT_LT(types.size(), all.size()) << "requests that were not begun are not sent";
  EXPECT_EQ(types.front(), kWrite);
  EXPECT_EQ(types.back(), kDisconnect);
}

TEST_F(NbdReconnectTest, AViolationWithUnansweredWritesHoldsTheNextConnectionBack) {
  bool has_connected_early = true;
  HostileNbdServer server([&](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    (void)first.receive();
    first.reply(~std::uint64_t{0});
    first.wait_for_end();
    has_connected_early = self.has_pending_connection();
    first.close();
    NbdPeer second = self.accept();
    second.shake_hands();
    second.wait_for_end();
  });
  NbdClient client(server.uri());
  EXPECT_EQ(kind_of(client.fill(0, 'a')), ErrorKind::kClosed);
  client.wait_for_return();
  EXPECT_FALSE(has_connected_early);
}

TEST_F(NbdReconnectTest, LateRepliesOfAStalledServerReachNobody) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    const auto read = first.receive();
    const auto write = first.receive();
    first.wait_for_end();
    if (read) first.reply(read->cookie, 0, read->length);
    if (write) first.reply(write->cookie);
    first.close();
    NbdPeer second = self.accept();
    second.shake_hands();
    second.wait_for_end();
  });
  NbdClient client(server.uri(), milliseconds(50));
  TestIo& read = client.start(IoKind::kRead, 8192);
  TestIo& write = client.start(IoKind::kWrite, 0);
  EXPECT_EQ(kind_of(client.wait(read)), ErrorKind::kClosed);
  EXPECT_EQ(kind_of(client.wait(write)), ErrorKind::kClosed);
  client.wait_for_return();
}

TEST_F(NbdReconnectTest, GrowthIsAnnouncedAndServed) {
  const auto server = serve({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  std::atomic<int> announced = 0;
  client.disk().on_size_change([&] { ++announced; });
  server->stop(SIGKILL);
  ASSERT_TRUE(server->start(with_last(*server, "8M")));
  client.wait_for_return();
  EXPECT_EQ(announced, 1);
  EXPECT_EQ(client.disk().info().size, ByteCount(std::uint64_t{4} << 20));
  EXPECT_EQ(client.disk().refresh_size(), ByteCount(std::uint64_t{8} << 20));
  client.disk().on_size_change({});
}

TEST_F(NbdReconnectTest, AShrunkExportIsRefusedUntilItIsRestored) {
  const auto server = serve({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  server->stop(SIGKILL);
  ASSERT_TRUE(server->start(with_last(*server, "2M")));
  ASSERT_TRUE(client.poll_until(
      [&] { return client.disk().status().detail.find("fewer than") != std::string::npos; }));
  EXPECT_FALSE(client.disk().status().is_available);
  EXPECT_EQ(kind_of(client.perform(IoKind::kRead, 0)), ErrorKind::kClosed);
  server->stop(SIGKILL);
  ASSERT_TRUE(server->start(with_last(*server, "4M")));
  client.wait_for_return();
  EXPECT_EQ(client.look(0), '\0');
}

TEST_F(NbdReconnectTest, AnExportThatHasBecomeReadOnlyIsRefused) {
  const auto server = serve({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  auto words = server->words();
  server->stop(SIGKILL);
  words.insert(words.begin() + 1, "--read-only");
  ASSERT_TRUE(server->start(words));
  ASSERT_TRUE(client.poll_until(
      [&] { return client.disk().status().detail.find("read-only") != std::string::npos; }));
  EXPECT_FALSE(client.disk().status().is_available);
}

}  // namespace
}  // namespace guestio::disk
