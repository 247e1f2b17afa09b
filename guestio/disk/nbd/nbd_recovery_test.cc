// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_recovery.h"

#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestio/disk/nbd/test/nbd_client.h"

namespace guestio::disk {
namespace {

using Epoch = NbdRecovery::Epoch;
using Step = NbdRecovery::Step;
using testing::NbdClient;
using testing::NbdServer;

/// What the recovery asked of a link, the last of each.
struct Asked final : NbdRecovery::Member {
  void post_give_up(Epoch epoch) override { give_up = epoch; }
  void post_begin_anew(Epoch epoch) override { begin_anew = epoch; }
  void post_repeat(Epoch epoch) override { repeat = epoch; }
  void post_ready(Epoch epoch) override { ready = epoch; }

  std::optional<Epoch> give_up;
  std::optional<Epoch> begin_anew;
  std::optional<Epoch> repeat;
  std::optional<Epoch> ready;
};

class NbdRecoveryTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kLinks = 3;

  void SetUp() override {
    for (std::size_t i = 0; i < kLinks; ++i) {
      asked_.push_back(std::make_shared<Asked>());
      recovery_.join(link(i), asked_[i]);
    }
  }
  void TearDown() override {
    for (std::size_t i = 0; i < kLinks; ++i) recovery_.leave(link(i));
  }
  /// An address: the recovery does not use the link.
  const NbdLink& link(std::size_t i) const {
    return *reinterpret_cast<const NbdLink*>(&addresses_[i]);
  }
  void connect_all() {
    for (std::size_t i = 0; i < kLinks; ++i) {
      ASSERT_EQ(recovery_.connected(link(i)).step, Step::kReady);
    }
  }
  Asked& asked(std::size_t i) { return *asked_[i]; }

  std::array<std::uint64_t, kLinks> addresses_{};
  NbdRecovery recovery_{true};
  std::vector<std::shared_ptr<Asked>> asked_;
};

TEST_F(NbdRecoveryTest, ALossEndsAllConnectionsAndOneLinkRepeats) {
  connect_all();
  recovery_.lost(link(0));
  EXPECT_FALSE(asked(0).give_up);
  EXPECT_EQ(asked(1).give_up, 0U);
  EXPECT_EQ(asked(2).give_up, 0U);
  recovery_.gone(link(0));
  // The server may still perform requests of the others.
  const auto next = recovery_.connected(link(0));
  EXPECT_EQ(next.step, Step::kWait);
  EXPECT_EQ(next.epoch, 1U);
  for (const std::size_t i : {1U, 2U}) recovery_.lost(link(i));
  recovery_.gone(link(1));
  EXPECT_FALSE(asked(0).repeat);
  recovery_.gone(link(2));
  EXPECT_EQ(asked(0).repeat, 1U);
  EXPECT_EQ(recovery_.connected(link(1)).step, Step::kWait);
  recovery_.repeated(1);
  EXPECT_EQ(asked(0).ready, 1U);
  EXPECT_EQ(asked(1).ready, 1U);
  EXPECT_FALSE(asked(2).ready);
  EXPECT_EQ(recovery_.connected(link(2)).step, Step::kReady);
}

TEST_F(NbdRecoveryTest, ALossDuringTheRepetitionStartsItAnew) {
  connect_all();
  for (std::size_t i = 0; i < kLinks; ++i) recovery_.lost(link(i));
  for (std::size_t i = 0; i < kLinks; ++i) recovery_.gone(link(i));
  ASSERT_EQ(recovery_.connected(link(1)).step, Step::kRepeat);
  ASSERT_EQ(recovery_.connected(link(2)).step, Step::kWait);
  recovery_.lost(link(2));
  EXPECT_EQ(asked(1).give_up, 1U);
  recovery_.repeated(1);  // too late
  recovery_.gone(link(2));
  EXPECT_EQ(recovery_.connected(link(2)).step, Step::kWait);
  recovery_.lost(link(1));
  recovery_.gone(link(1));
  EXPECT_EQ(asked(2).repeat, 2U);
}

TEST_F(NbdRecoveryTest, ALinkThatLeavesHoldsUpNobody) {
  connect_all();
  for (std::size_t i = 0; i < kLinks; ++i) recovery_.lost(link(i));
  for (const std::size_t i : {0U, 1U}) recovery_.gone(link(i));
  EXPECT_EQ(recovery_.connected(link(0)).step, Step::kWait);
  EXPECT_EQ(recovery_.connected(link(1)).step, Step::kWait);
  recovery_.leave(link(2));
  ASSERT_EQ(asked(0).repeat, 1U);
  recovery_.leave(link(0));
  EXPECT_EQ(asked(1).repeat, 1U);
}

TEST_F(NbdRecoveryTest, NoRepetitionBeginsWhileFrozen) {
  connect_all();
  ASSERT_TRUE(recovery_.freeze());
  for (std::size_t i = 0; i < kLinks; ++i) recovery_.lost(link(i));
  // The server may still perform requests.
  EXPECT_FALSE(recovery_.freeze());
  for (std::size_t i = 0; i < kLinks; ++i) recovery_.gone(link(i));
  EXPECT_TRUE(recovery_.freeze());
  EXPECT_EQ(recovery_.connected(link(0)).step, Step::kWait);
  EXPECT_FALSE(asked(0).repeat);
  recovery_.unfreeze();
  EXPECT_EQ(asked(0).repeat, 1U);
  EXPECT_FALSE(recovery_.freeze());
  recovery_.repeated(1);
  EXPECT_TRUE(recovery_.freeze());
}

TEST_F(NbdRecoveryTest, TheWritesOfAnotherProcessAreRepeatedFirst) {
  recovery_.restart();
  // It may still serve the disk.
  EXPECT_EQ(recovery_.connected(link(0)).step, Step::kWait);
  recovery_.unfreeze();
  EXPECT_EQ(asked(0).repeat, 1U);
}

TEST_F(NbdRecoveryTest, AServerWithoutCacheNeedsNone) {
  NbdRecovery recovery(false);
  const auto one = std::make_shared<Asked>();
  const auto other = std::make_shared<Asked>();
  recovery.join(link(0), one);
  recovery.join(link(1), other);
  ASSERT_EQ(recovery.connected(link(0)).step, Step::kReady);
  ASSERT_EQ(recovery.connected(link(1)).step, Step::kReady);
  recovery.lost(link(0));
  EXPECT_FALSE(other->give_up);
  recovery.gone(link(0));
  EXPECT_EQ(recovery.connected(link(0)).step, Step::kReady);
}

/// A server that has lost all of its memory. nbdkit flushes its memory plugin by doing nothing:
/// what was flushed is lost for good.
TEST(NbdUnflushedWritesTest, ARestartedServerGetsThem) {
  const auto server = NbdServer::nbdkit({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  ASSERT_TRUE(client.fill(0, 'a'));
  ASSERT_TRUE(client.perform(IoKind::kFlush, 0));
  ASSERT_TRUE(client.fill(4096, 'b'));
  ASSERT_TRUE(client.fill(4096, 'c'));
  ASSERT_TRUE(client.fill(8192, 'd'));
  const int seen = client.available();
  server->stop(SIGKILL);
  ASSERT_TRUE(server->start());
  client.wait_for_return(seen);
  EXPECT_EQ(client.look(0), '\0');
  EXPECT_EQ(client.look(4096), 'c');
  EXPECT_EQ(client.look(8192), 'd');
}

TEST(NbdUnflushedWritesTest, AnotherProcessSendsThemOnceItServesTheDisk) {
  const auto server = NbdServer::nbdkit({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient before(server->uri());
  NbdClient after(server->uri());
  ASSERT_TRUE(before.fill(4096, 'b'));
  ASSERT_TRUE(after.poll_until([&] { return after.disk().status().connections == 1; }));
  auto snapshot = before.disk().snapshot();
  ASSERT_TRUE(snapshot.has_value());
  ASSERT_TRUE(snapshot->unflushed);
  ASSERT_TRUE(after.disk().restore(std::move(*snapshot)));
  // The new process connects anew. Before its first request it sends nothing, as the takeover may
  // still fail.
  after.loop().run_until_idle();
  ASSERT_TRUE(before.fill(4096, 'c'));
  EXPECT_EQ(before.look(4096), 'c');
  EXPECT_EQ(after.look(4096), 'b');
  EXPECT_TRUE(after.disk().status().is_available);
  EXPECT_EQ(after.available(), 0);
}

TEST(NbdUnflushedWritesTest, AllConnectionsWaitForThem) {
  const auto server = NbdServer::nbdkit({"memory", "4M"});
  if (!server) GTEST_SKIP() << "nbdkit is not installed";
  NbdClient client(server->uri());
  client.add_channel();
  ASSERT_TRUE(client.poll_until([&] { return client.disk().status().connections == 2; }));
  ASSERT_TRUE(client.fill(4096, 'b'));
  server->stop(SIGKILL);
  ASSERT_TRUE(server->start());
  // Each answers with the write or not at all.
  for (const std::size_t channel : {0U, 1U}) {
    char seen = '?';
    while (seen == '?') seen = client.look(4096, channel);
    EXPECT_EQ(seen, 'b');
  }
}

}  // namespace
}  // namespace guestio::disk
