// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "guestio/disk/nbd/test/nbd_client.h"
#include "testing/hostile_nbd_server.h"

namespace guestio::disk {
namespace {

using std::chrono::milliseconds;
using testing::HostileNbdServer;
using testing::kind_of;
using testing::NbdBytes;
using testing::NbdClient;
using testing::NbdHandshake;
using testing::NbdPeer;
using testing::TestIo;

/// What the server does with the first request, a read of 4 KiB.
struct Violation {
  std::string name;
  std::function<void(NbdPeer& peer, const NbdPeer::Request& read)> act;
};

class NbdViolationTest : public ::testing::TestWithParam<Violation> {};

TEST_P(NbdViolationTest, CostsTheConnectionAndNothingElse) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    if (const auto read = first.receive()) GetParam().act(first, *read);
    first.wait_for_end();
    first.close();
    NbdPeer second = self.accept();
    second.shake_hands();
    while (const auto request = second.receive()) {
      second.reply(request->cookie, 0, request->type == 0 ? request->length : 0);
    }
  });
  NbdClient client(server.uri(), milliseconds(100));
  TestIo& read = client.start(IoKind::kRead, 0);
  EXPECT_EQ(kind_of(client.wait(read)), ErrorKind::kClosed);
  client.wait_for_return();
  EXPECT_EQ(read.times_done, 1);
  EXPECT_EQ(client.look(0), '\0');
}

NbdBytes simple_reply(std::uint32_t magic, std::uint32_t error, std::uint64_t cookie) {
  NbdBytes bytes;
  bytes.u32(magic).u32(error).u64(cookie);
  return bytes;
}

INSTANTIATE_TEST_SUITE_P(
    Nbd, NbdViolationTest,
    ::testing::Values(
        Violation{"WrongMagic",
                  [](NbdPeer& peer, const NbdPeer::Request& read) {
                    peer.send(simple_reply(0x12345678, 0, read.cookie));
                  }},
        Violation{"StructuredReplyWithoutNegotiation",
                  [](NbdPeer& peer, const NbdPeer::Request& read) {
                    NbdBytes chunk;
                    peer.send(chunk.u32(0x668e33ef)
                                  .u16(1)
                                  .u16(1)
                                  .u64(read.cookie)
                                  .u32(8 + 4096)
                                  .zeroes(8 + 4096));
                  }},
        Violation{"UnknownCookie",
                  [](NbdPeer& peer, const NbdPeer::Request& read) {
                    peer.reply(read.cookie + 1, 0, 4096);
                  }},
        Violation{"CookieOfAnotherGeneration",
                  [](NbdPeer& peer, const NbdPeer::Request& read) {
                    peer.reply(read.cookie + (std::uint64_t{1} << 32), 0, 4096);
                  }},
        Violation{"LargestCookie",
                  [](NbdPeer& peer, const NbdPeer::Request&) { peer.reply(~std::uint64_t{0}); }},
        Violation{"HalfAHeader",
                  [](NbdPeer& peer, const NbdPeer::Request&) {
                    NbdBytes half;
                    peer.send(half.u32(NbdPeer::kReplyMagic).u32(0));
                    peer.close();
                  }},
        Violation{"HalfAPayload",
                  [](NbdPeer& peer, const NbdPeer::Request& read) {
                    peer.reply(read.cookie, 0, 2048);
                    peer.close();
                  }},
        Violation{
            "HalfAPayloadAndSilence",
            [](NbdPeer& peer, const NbdPeer::Request& read) { peer.reply(read.cookie, 0, 2048); }},
        Violation{"Silence", [](NbdPeer&, const NbdPeer::Request&) {}},
        Violation{"EndWithoutReply", [](NbdPeer& peer, const NbdPeer::Request&) { peer.close(); }},
        Violation{"ShuttingDown",
                  [](NbdPeer& peer, const NbdPeer::Request& read) {
                    peer.reply(read.cookie, ESHUTDOWN);
                    peer.close();
                  }},
        Violation{"Zeroes",
                  [](NbdPeer& peer, const NbdPeer::Request&) {
                    NbdBytes zeroes;
                    peer.send(zeroes.zeroes(100'000));
                  }}),
    [](const auto& instance) { return instance.param.name; });

/// Serves one connection: the first request gets what `act` does, all others a reply.
HostileNbdServer::Script serve_after(
    std::function<void(NbdPeer& peer, const NbdPeer::Request& first)> act) {
  return [act = std::move(act)](HostileNbdServer& self) {
    NbdPeer peer = self.accept();
    peer.shake_hands();
    if (const auto first = peer.receive()) act(peer, *first);
    while (const auto request = peer.receive()) {
      peer.reply(request->cookie, 0, request->type == 0 ? request->length : 0);
    }
  };
}

TEST(NbdHostileServer, AnUnknownErrorFailsItsRequestOnly) {
  HostileNbdServer server(serve_after(
      [](NbdPeer& peer, const NbdPeer::Request& first) { peer.reply(first.cookie, 0xffffffff); }));
  NbdClient client(server.uri());
  const auto failed = client.perform(IoKind::kRead, 0);
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().host_errno, EINVAL);
  EXPECT_TRUE(client.perform(IoKind::kRead, 0));
}

TEST(NbdHostileServer, ASecondReplyEndsTheConnection) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    if (const auto read = first.receive()) {
      first.reply(read->cookie, 0, read->length);
      first.reply(read->cookie, 0, read->length);
    }
    first.wait_for_end();
    first.close();
    NbdPeer second = self.accept();
    second.shake_hands();
    second.wait_for_end();
  });
  NbdClient client(server.uri());
  TestIo& read = client.start(IoKind::kRead, 0);
  EXPECT_TRUE(client.wait(read));
  client.wait_for_return();
  EXPECT_EQ(read.times_done, 1);
}

TEST(NbdHostileServer, ARequestMayBeRepliedByteForByte) {
  HostileNbdServer server(serve_after([](NbdPeer& peer, const NbdPeer::Request& first) {
    for (const std::byte byte : simple_reply(NbdPeer::kReplyMagic, 0, first.cookie).span()) {
      NbdBytes one;
      peer.send(one.u8(std::to_integer<std::uint8_t>(byte)));
    }
    for (std::uint32_t i = 0; i < first.length; i += 512) {
      NbdBytes part;
      peer.send(part.zeroes(512));
    }
  }));
  NbdClient client(server.uri());
  EXPECT_TRUE(client.perform(IoKind::kRead, 0));
  EXPECT_TRUE(client.perform(IoKind::kRead, 4096));
}

TEST(NbdHostileServer, RepliesOutOfOrderFindTheirRequests) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer peer = self.accept();
    peer.shake_hands();
    std::vector<NbdPeer::Request> requests;
    for (int i = 0; i < 3; ++i) requests.push_back(peer.receive().value());
    peer.reply(requests[2].cookie, 0, requests[2].length);
    peer.reply(requests[0].cookie, EIO);
    peer.reply(requests[1].cookie);
    peer.wait_for_end();
  });
  NbdClient client(server.uri());
  TestIo& failed = client.start(IoKind::kRead, 0);
  TestIo& write = client.start(IoKind::kWrite, 4096);
  TestIo& large = client.start(IoKind::kRead, 8192, std::uint64_t{256} << 10);
  EXPECT_TRUE(client.wait(large));
  EXPECT_FALSE(client.wait(failed));
  EXPECT_TRUE(client.wait(write));
}

TEST(NbdHostileServer, AnExportOutOfBoundsIsRefused) {
  constexpr std::uint64_t kHalf = std::uint64_t{1} << 63;
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{511}, kHalf, kHalf + 4096,
                                   ~std::uint64_t{0}, ~std::uint64_t{0} - 511}) {
    HostileNbdServer server([size](HostileNbdServer& self) {
      NbdPeer peer = self.accept();
      peer.shake_hands({.size = size});
      peer.wait_for_end();
    });
    NbdClient client(server.uri());
    EXPECT_NE(client.failure(), "") << size;
  }
}

TEST(NbdHostileServer, TheLargestExportIsServed) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer peer = self.accept();
    peer.shake_hands({.size = (std::uint64_t{1} << 63) - 1});
    peer.wait_for_end();
  });
  NbdClient client(server.uri());
  ASSERT_EQ(client.failure(), "");
  EXPECT_EQ(client.disk().info().size, ByteCount((std::uint64_t{1} << 63) - 512));
}

TEST(NbdHostileServer, BlockSizesOutsideOfTheProtocolAreRefusedOrIgnored) {
  using Blocks = NbdHandshake::Blocks;
  for (const Blocks& blocks :
       {Blocks{0, 0, 0}, Blocks{3, 4096, 1 << 20}, Blocks{1U << 31, 1U << 31, 1U << 31},
        Blocks{4096, 512, 1 << 20}, Blocks{512, 4096, 1}, Blocks{~0U, ~0U, ~0U}}) {
    HostileNbdServer server([blocks](HostileNbdServer& self) {
      NbdPeer peer = self.accept();
      peer.shake_hands({.blocks = blocks});
      while (const auto request = peer.receive()) {
        peer.reply(request->cookie, 0, request->type == 0 ? request->length : 0);
      }
    });
    NbdClient client(server.uri());
    if (client.failure().empty()) {
      EXPECT_TRUE(client.perform(IoKind::kRead, 512, 1024)) << blocks.minimum;
    }
  }
}

TEST(NbdHostileServer, NonsenseInTheHandshakeIsRefused) {
  const std::vector<std::function<void(NbdPeer&)>> scripts = {
      [](NbdPeer& peer) { peer.close(); },
      [](NbdPeer& peer) {
        NbdBytes bytes;
        peer.send(bytes.zeroes(1000));
      },
      [](NbdPeer& peer) {  // an option reply of 4 GiB
        NbdBytes bytes;
        peer.send(bytes.u64(0x4e42444d41474943)
                      .u64(0x49484156454f5054)
                      .u16(3)
                      .u64(0x3e889045565a9)
                      .u32(7)
                      .u32(3)
                      .u32(0xffffffff)
                      .zeroes(1 << 20));
      },
      [](NbdPeer& peer) {  // a reply to an option that nobody sent
        NbdBytes bytes;
        peer.send(bytes.u64(0x4e42444d41474943)
                      .u64(0x49484156454f5054)
                      .u16(3)
                      .u64(0x3e889045565a9)
                      .u32(99)
                      .u32(1)
                      .u32(0));
      },
      [](NbdPeer& peer) {  // acknowledged without an export
        NbdBytes bytes;
        peer.send(bytes.u64(0x4e42444d41474943)
                      .u64(0x49484156454f5054)
                      .u16(3)
                      .u64(0x3e889045565a9)
                      .u32(7)
                      .u32(1)
                      .u32(0));
      },
  };
  for (const auto& script : scripts) {
    HostileNbdServer server([&script](HostileNbdServer& self) {
      NbdPeer peer = self.accept();
      script(peer);
      peer.wait_for_end();
    });
    NbdClient client(server.uri(), milliseconds(200));
    EXPECT_NE(client.failure(), "");
  }
}

TEST(NbdHostileServer, AFullSocketDelaysRequestsAndLosesNone) {
  HostileNbdServer server([](HostileNbdServer& self) {
    NbdPeer peer = self.accept();
    peer.shake_hands();
    while (const auto request = peer.receive()) {
      peer.reply(request->cookie, 0, request->type == 0 ? request->length : 0);
    }
  });
  NbdClient client(server.uri());
  constexpr std::uint64_t kBytes = std::uint64_t{512} << 10;
  std::vector<TestIo*> all;
  for (int i = 0; i < 16; ++i) {
    all.push_back(&client.start(i % 4 == 0 ? IoKind::kRead : IoKind::kWrite, 0, kBytes));
  }
  for (TestIo* const io : all) EXPECT_TRUE(client.wait(*io));
}

/// A write is acknowledged on the first connection, and refused with `error` when it is sent again
/// on the second one.
HostileNbdServer::Script refuse_repetition(std::uint32_t error) {
  return [=](HostileNbdServer& self) {
    NbdPeer first = self.accept();
    first.shake_hands();
    if (const auto write = first.receive()) first.reply(write->cookie);
    if (const auto read = first.receive()) first.close();
    for (bool refuses = true;; refuses = false) {
      NbdPeer peer = self.accept();
      peer.shake_hands();
      while (const auto request = peer.receive()) {
        constexpr std::uint16_t kRead = 0;
        constexpr std::uint16_t kWrite = 1;
        peer.reply(request->cookie, refuses && request->type == kWrite ? error : 0,
                   request->type == kRead ? request->length : 0);
      }
      if (!refuses) return;
    }
  };
}

TEST(NbdHostileServer, ARefusedRepetitionIsTriedAgainOnAnotherConnection) {
  for (const int error : {ENOSPC, ESHUTDOWN}) {
    HostileNbdServer server(refuse_repetition(static_cast<std::uint32_t>(error)));
    NbdClient client(server.uri());
    ASSERT_TRUE(client.fill(0, 'a'));
    EXPECT_EQ(client.look(4096), '?');
    EXPECT_FALSE(client.disk().status().is_available);
    client.wait_for_return();
    EXPECT_TRUE(client.disk().status().is_available);
    EXPECT_EQ(client.disk().status().reconnects, 2U);
  }
}

}  // namespace
}  // namespace guestio::disk
