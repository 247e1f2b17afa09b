// SPDX-License-Identifier: MIT
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include "guestio/disk/nbd/test/nbd_client.h"
#include "guestio/disk/nbd/test/nbd_keys.h"

namespace guestio::disk {
namespace {

using testing::NbdClient;
using testing::NbdKeys;
using testing::NbdServer;
using testing::TestIo;

class NbdTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!NbdKeys::can_make()) GTEST_SKIP() << "gnutls-bin is not installed";
  }
  static std::string unix_uri(const NbdServer& server, const std::string& keys) {
    return "nbds+unix://alice@/?socket=" + server.path() + "&tls-psk-file=" + keys;
  }

  NbdKeys keys_;
};

TEST_F(NbdTlsTest, AKeyOpensTheExport) {
  const std::string keys = keys_.psk_file("keys");
  const auto server = NbdServer::nbdkit({"--tls=require", "--tls-psk=" + keys, "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(unix_uri(*server, keys));
  ASSERT_EQ(client.failure(), "");
  constexpr std::uint64_t kBytes = std::uint64_t{512} << 10;
  ASSERT_TRUE(client.fill(0, 'a', kBytes));
  EXPECT_EQ(client.look(0), 'a');
  EXPECT_EQ(client.look(kBytes - 4096), 'a');
  EXPECT_TRUE(client.perform(IoKind::kWriteZeroes, 0));
  EXPECT_TRUE(client.perform(IoKind::kFlush, 0));
  EXPECT_EQ(client.look(0), '\0');
}

TEST_F(NbdTlsTest, AnotherKeyDoesNot) {
  const auto server =
      NbdServer::nbdkit({"--tls=require", "--tls-psk=" + keys_.psk_file("keys"), "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(unix_uri(*server, keys_.psk_file("others")));
  EXPECT_NE(client.failure(), "");
}

TEST_F(NbdTlsTest, OneSideWithoutTlsIsRefused) {
  const std::string keys = keys_.psk_file("keys");
  const auto secure = NbdServer::nbdkit({"--tls=require", "--tls-psk=" + keys, "memory", "4M"});
  const auto plain = NbdServer::nbdkit({"memory", "4M"});
  if (!secure) GTEST_SKIP() << "nbdkit is not installed";
  EXPECT_NE(NbdClient(secure->uri()).failure(), "");
  EXPECT_NE(NbdClient(unix_uri(*plain, keys)).failure(), "");
}

TEST_F(NbdTlsTest, ManyRequestsAtOnceComplete) {
  const std::string keys = keys_.psk_file("keys");
  const auto server = NbdServer::nbdkit({"--tls=require", "--tls-psk=" + keys, "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(unix_uri(*server, keys));
  std::vector<TestIo*> all;
  for (std::uint64_t i = 0; i < 64; ++i) {
    all.push_back(&client.start(i % 2 == 0 ? IoKind::kRead : IoKind::kWrite, i * 16384, 16384));
  }
  for (TestIo* const io : all) EXPECT_TRUE(client.wait(*io));
}

TEST_F(NbdTlsTest, AKilledServerIsReplaced) {
  const std::string keys = keys_.psk_file("keys");
  const auto server = NbdServer::nbdkit({"--tls=require", "--tls-psk=" + keys, "file", "IMAGE"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(unix_uri(*server, keys));
  ASSERT_TRUE(client.fill(0, 'a'));
  ASSERT_TRUE(server->pause());
  client.set_memory(4096, 'b');
  TestIo& read = client.start(IoKind::kRead, 0);
  TestIo& write = client.start(IoKind::kWrite, 4096);
  server->stop(SIGKILL);
  EXPECT_EQ(testing::kind_of(client.wait(read)), ErrorKind::kClosed);
  EXPECT_EQ(testing::kind_of(client.wait(write)), ErrorKind::kClosed);
  ASSERT_TRUE(server->start());
  client.wait_for_return();
  EXPECT_TRUE(client.fill(4096, 'b'));
  EXPECT_EQ(client.look(0), 'a');
}

TEST_F(NbdTlsTest, AStoppedServerWithWritesIsReplacedAfterItsEnd) {
  const std::string keys = keys_.psk_file("keys");
  const auto server = NbdServer::nbdkit({"--tls=require", "--tls-psk=" + keys, "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(unix_uri(*server, keys), std::chrono::milliseconds(200));
  ASSERT_TRUE(client.fill(0, 'a'));
  ASSERT_TRUE(server->pause());
  EXPECT_EQ(testing::kind_of(client.fill(0, 'b')), ErrorKind::kClosed);
  server->resume();
  client.wait_for_return();
  ASSERT_TRUE(client.fill(0, 'c'));
  EXPECT_EQ(client.look(0), 'c');
}

/// A TCP port that was free a moment ago.
std::string find_port() {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const plain = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(::bind(socket.get(), plain, sizeof address), 0);
  EXPECT_EQ(::getsockname(socket.get(), plain, &size), 0);
  return std::to_string(::ntohs(address.sin_port));
}

TEST_F(NbdTlsTest, CertificatesAreCheckedOverTcp) {
  const std::string ours = keys_.certificates("ours");
  const std::string port = find_port();
  const auto server = NbdServer::nbdkit_at_port(
      port, {"--tls=require", "--tls-certificates=" + ours, "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  const auto look_with = [&](const std::string& host, const std::string& folder) {
    NbdClient client("nbds://" + host + ":" + port + "/?tls-certificates=" + folder);
    return client.failure().empty() ? std::string(1, client.look(0)) : client.failure();
  };
  const std::string zero(1, '\0');
  EXPECT_EQ(look_with("localhost", ours), zero);
  EXPECT_NE(look_with("127.0.0.1", ours), zero) << "the certificate is of another host";
  EXPECT_NE(look_with("localhost", keys_.certificates("theirs")), zero) << "of another authority";
}

TEST_F(NbdTlsTest, CertificatesThatWouldNotBeCheckedAreRefused) {
  OpenOptions options;
  options.uri = "nbds+unix:///?socket=/s&tls-certificates=/pki";
  const auto refused = parse_nbd_target(options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().to_string().find("would accept any certificate"), std::string::npos);
}

}  // namespace
}  // namespace guestio::disk
