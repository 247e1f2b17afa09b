// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_disk.h"

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestio/disk/nbd/nbd_factory.h"
#include "guestio/disk/nbd/test/nbd_client.h"
#include "testing/hostile_nbd_server.h"

namespace guestio::disk {
namespace {

using std::chrono::milliseconds;
using testing::HostileNbdServer;
using testing::kind_of;
using testing::NbdClient;
using testing::NbdPeer;
using testing::NbdServer;
using testing::TestIo;

OpenOptions options_of(const std::string& uri) {
  OpenOptions options;
  options.uri = uri;
  return options;
}

TEST(NbdDisk, AReadOnlyExportOpensReadOnly) {
  const auto server = NbdServer::nbdkit({"--read-only", "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdFactory factory;
  OpenOptions options = options_of(server->uri());
  const auto refused = factory.open(options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().to_string().find("set read-only=on"), std::string::npos);
  options.is_read_only = true;
  const auto opened = factory.open(options);
  ASSERT_TRUE(opened.has_value());
  EXPECT_TRUE((*opened)->info().is_read_only);
  EXPECT_FALSE((*opened)->info().discard.has_value());
}

TEST(NbdDisk, AMissingExportIsNamed) {
  const auto server = NbdServer::qemu_nbd({"--shared=2", "--export-name=right"});
  if (!server) GTEST_SKIP() << "qemu-nbd is not installed";
  NbdFactory factory;
  const auto refused = factory.open(options_of(server->uri("wrong")));
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().to_string().find("wrong"), std::string::npos);
  EXPECT_TRUE(factory.open(options_of(server->uri("right"))).has_value());
}

TEST(NbdDisk, AnAbsentServerIsReported) {
  NbdFactory factory;
  const auto refused = factory.open(options_of("nbd+unix:///?socket=/nonexistent/s"));
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().to_string().find("No such file"), std::string::npos);
  const auto unresolved = factory.open(options_of("nbd://host.invalid/"));
  EXPECT_FALSE(unresolved.has_value());
}

TEST(NbdDisk, AServerWithoutAnAnswerIsReported) {
  HostileNbdServer server([](HostileNbdServer& self) { self.accept().wait_for_end(); });
  NbdClient client(server.uri(), milliseconds(50));
  EXPECT_NE(client.failure().find("no answer of the NBD server within 0.05 s"), std::string::npos)
      << client.failure();
}

TEST(NbdDisk, AServerOfOneClientServesADiskOfOneConnection) {
  const auto server = NbdServer::qemu_nbd({"--shared=1"});
  if (!server) GTEST_SKIP() << "qemu-nbd is not installed";
  NbdClient client(server->uri());
  EXPECT_TRUE(client.disk().needs_one_thread());
  client.add_channel();
  TestIo& first = client.start(IoKind::kRead, 0, 4096, 0);
  TestIo& second = client.start(IoKind::kRead, 4096, 4096, 1);
  EXPECT_TRUE(client.wait(first));
  EXPECT_TRUE(client.wait(second));
  EXPECT_EQ(client.disk().status().connections, 1U);
  const auto other = uring::Loop::create();
  EXPECT_FALSE(client.disk().open_channel(**other, ByteCount(1 << 20)).has_value());
}

TEST(NbdDisk, TheConnectionOfOpeningServesTheFirstChannel) {
  const auto server = NbdServer::nbdkit({"--filter=exitlast", "memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  {
    NbdClient client(server->uri());
    EXPECT_TRUE(client.fill(0, 'a'));
    EXPECT_EQ(client.look(0), 'a');
  }
  EXPECT_EQ(server->process().wait(), 0) << "the server ends after its last client";
}

TEST(NbdDisk, AnErrorOfTheServerReachesItsRequestOnly) {
  const testing::TemporaryDirectory folder;
  const std::string trigger = folder.file("trigger");
  const auto server = NbdServer::nbdkit({"--filter=error", "memory", "4M", "error-pread=EIO",
                                         "error-pread-rate=100%", "error-pread-file=" + trigger});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  ASSERT_TRUE(client.fill(0, 'a'));
  std::ofstream(trigger) << "now";
  TestIo& read = client.start(IoKind::kRead, 0);
  TestIo& write = client.start(IoKind::kWrite, 4096);
  const auto failed = client.wait(read);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().kind, ErrorKind::kHost);
  EXPECT_EQ(failed.error().host_errno, EIO);
  EXPECT_TRUE(client.wait(write));
  std::filesystem::remove(trigger);
  EXPECT_EQ(client.look(0), 'a');
  EXPECT_EQ(client.disk().status().reconnects, 0U);
}

TEST(NbdDisk, ASlowServerAnswersInAnyOrder) {
  const auto server =
      NbdServer::nbdkit({"--filter=delay", "memory", "4M", "delay-read=5ms", "delay-write=1ms"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  std::vector<TestIo*> all;
  for (std::uint64_t i = 0; i < 32; ++i) {
    all.push_back(&client.start(i % 2 == 0 ? IoKind::kRead : IoKind::kWrite, i * 4096));
  }
  for (TestIo* const io : all) EXPECT_TRUE(client.wait(*io));
}

TEST(NbdDisk, AFirstConnectionThatFailsFailsItsRequests) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    self.accept().close();
    NbdPeer third = self.accept();
    third.shake_hands();
    const auto request = third.receive();
    if (request) third.reply(request->cookie, 0, request->length);
    third.wait_for_end();
  });
  NbdClient client(server.uri());
  client.add_channel();
  EXPECT_EQ(testing::kind_of(client.wait(client.start(IoKind::kRead, 0, 4096, 1))),
            ErrorKind::kClosed);
  client.wait_for_return();
  EXPECT_TRUE(client.wait(client.start(IoKind::kRead, 0, 4096, 1)));
}

TEST(NbdDisk, ASuccessorTakesOverAnExportThatHasNotShrunk) {
  const auto server = NbdServer::nbdkit({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdFactory factory;
  NbdClient old(server->uri());
  auto snapshot = old.disk().snapshot();
  ASSERT_TRUE(snapshot.has_value());
  EXPECT_TRUE(factory.take_over(options_of(server->uri()), std::move(*snapshot)).has_value());
  DiskSnapshot larger;
  larger.size = ByteCount(std::uint64_t{8} << 20);
  EXPECT_FALSE(factory.take_over(options_of(server->uri()), std::move(larger)).has_value());
}

TEST(NbdDisk, ATakeoverWaitsForNoServerThatIsAway) {
  const auto server = NbdServer::nbdkit({"file", "IMAGE"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient old(server->uri());
  ASSERT_TRUE(old.fill(0, 'a'));
  server->stop(SIGKILL);
  ASSERT_TRUE(old.poll_until([&] { return !old.disk().status().is_available; }));
  auto snapshot = old.disk().snapshot();
  ASSERT_TRUE(snapshot.has_value());
  NbdFactory factory;
  auto disk = factory.take_over(options_of(server->uri()), std::move(*snapshot));
  ASSERT_TRUE(disk.has_value()) << disk.error().to_string();
  EXPECT_EQ((*disk)->info().size, old.disk().info().size);
  EXPECT_EQ((*disk)->info().discard.has_value(), old.disk().info().discard.has_value());

  NbdClient present(std::move(*disk));
  EXPECT_EQ(kind_of(present.perform(IoKind::kRead, 0)), ErrorKind::kClosed);
  ASSERT_TRUE(server->start());
  present.wait_for_return();
  EXPECT_EQ(present.look(0), 'a');
}

TEST(NbdDisk, ATakeoverRefusesTheSnapshotOfAnotherBackend) {
  NbdFactory factory;
  DiskSnapshot snapshot;
  snapshot.size = ByteCount(4096);
  snapshot.backend_state = "/run/folder";
  EXPECT_FALSE(factory.take_over(options_of("nbd+unix:///?socket=/x"), std::move(snapshot)));
}

}  // namespace
}  // namespace guestio::disk
