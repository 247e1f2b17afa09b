// SPDX-License-Identifier: MIT
#include "guestio/vhost/frontend/frontend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "guestio/mem/recover.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/vhost/frontend/frontend_queue.h"

namespace guestio::vhost {
namespace {

using std::chrono::milliseconds;
using Request = FrontendRequest;

/// A backend with scripted replies and a record of all requests.
class ScriptedBackend {
 public:
  /// Makes the payload of a reply.
  using Reply = std::function<std::vector<std::byte>(const Message&)>;

  struct ReceivedRequest {
    Request request;
    std::uint32_t flags;
    std::vector<std::byte> payload;
    std::size_t descriptors;
  };

  explicit ScriptedBackend(std::map<Request, Reply> replies) : replies_(std::move(replies)) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    frontend_end_.reset(ends[0]);
    thread_ = std::thread([this, fd = ends[1]] { serve(MessageSocket(UniqueFd(fd))); });
  }
  ~ScriptedBackend() { join(); }

  Frontend make_frontend(milliseconds deadline = std::chrono::seconds(60)) {
    return Frontend::from_socket(std::move(frontend_end_), {.deadline = deadline});
  }
  /// Waits for the end of the front-end. Returns all of its requests.
  const std::vector<ReceivedRequest>& join() {
    if (thread_.joinable()) thread_.join();
    return received_;
  }

  template <typename T>
  static Reply always(T value) {
    return [value](const Message&) {
      const auto bytes = std::as_bytes(std::span(&value, 1));
      return std::vector(bytes.begin(), bytes.end());
    };
  }
  /// Returns the payload of the request.
  static Reply echo() {
    return [](const Message& message) {
      return std::vector(message.payload().begin(), message.payload().end());
    };
  }

 private:
  void serve(MessageSocket socket) {
    const Deadline deadline = Deadline::clock::now() + std::chrono::seconds(60);
    Message message;
    while (socket.receive(message, deadline)) {
      const auto request = static_cast<Request>(message.header.request);
      received_.push_back({request, message.header.flags,
                           std::vector(message.payload().begin(), message.payload().end()),
                           message.descriptors.size()});
      const auto reply = replies_.find(request);
      std::vector<std::byte> payload(8);
      if (reply != replies_.end()) {
        payload = reply->second(message);
      } else if ((message.header.flags & kMessageNeedReply) == 0) {
        continue;
      }
      if (!socket.send(message.header.request, kMessageVersion | kMessageReply, payload, {},
                       deadline)) {
        return;
      }
    }
  }

  std::map<Request, Reply> replies_;
  std::vector<ReceivedRequest> received_;
  UniqueFd frontend_end_;
  std::thread thread_;
};

std::vector<Request> requests_of(const std::vector<ScriptedBackend::ReceivedRequest>& received) {
  std::vector<Request> requests;
  requests.reserve(received.size());
  for (const auto& message : received) requests.push_back(message.request);
  return requests;
}

constexpr ProtocolBits kProtocol = kProtocolMq | kProtocolConfig | kProtocolReplyAck;

std::map<Request, ScriptedBackend::Reply> modern_backend() {
  return {{Request::kGetFeatures, ScriptedBackend::always(kFeatureProtocolFeatures | 0x7)},
          {Request::kGetProtocolFeatures, ScriptedBackend::always(kProtocol)},
          {Request::kGetQueueNum, ScriptedBackend::always(std::uint64_t{4})}};
}

TEST(Frontend, NegotiatesTheCommonFeatures) {
  ScriptedBackend backend(modern_backend());
  {
    Frontend frontend = backend.make_frontend();
    const auto negotiated =
        frontend.negotiate(0xe, kProtocolMq | kProtocolReplyAck | kProtocolStatus);
    ASSERT_TRUE(negotiated.has_value()) << negotiated.error().to_string();
    EXPECT_EQ(negotiated->offered_features, kFeatureProtocolFeatures | 0x7);
    EXPECT_EQ(negotiated->offered_protocol, kProtocol);
    EXPECT_EQ(negotiated->features, kFeatureProtocolFeatures | 0x6);
    EXPECT_EQ(negotiated->protocol, kProtocolMq | kProtocolReplyAck);
    EXPECT_EQ(negotiated->queues, 4u);
  }
  EXPECT_EQ(requests_of(backend.join()),
            (std::vector{Request::kGetFeatures, Request::kGetProtocolFeatures,
                         Request::kSetProtocolFeatures, Request::kSetOwner, Request::kGetQueueNum,
                         Request::kSetFeatures}));
}

TEST(Frontend, AnOldBackendHasOneQueueAndNoProtocolFeatures) {
  ScriptedBackend backend({{Request::kGetFeatures, ScriptedBackend::always(std::uint64_t{6})}});
  {
    Frontend frontend = backend.make_frontend();
    const auto negotiated = frontend.negotiate(~std::uint64_t{0}, kProtocol);
    ASSERT_TRUE(negotiated.has_value());
    EXPECT_EQ(negotiated->features, 6u);
    EXPECT_EQ(negotiated->queues, 1u);
  }
  EXPECT_EQ(requests_of(backend.join()),
            (std::vector{Request::kGetFeatures, Request::kSetOwner, Request::kSetFeatures}));
}

TEST(Frontend, WithReplyAckARefusalIsAnError) {
  auto replies = modern_backend();
  replies[Request::kSetVringNum] = ScriptedBackend::always(std::uint64_t{1});
  ScriptedBackend backend(replies);
  Frontend frontend = backend.make_frontend();
  ASSERT_TRUE(frontend.negotiate(0, kProtocol).has_value());
  const auto refused = frontend.set_vring_num(0, 3);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error(), Error::peer_fault("", 1));
  EXPECT_TRUE(frontend.set_vring_base(0, 0).has_value()) << "the connection continues";
}

TEST(Frontend, AnyRangeOfTheConfigSpaceCanBeRead) {
  auto replies = modern_backend();
  replies[Request::kGetConfig] = [](const Message& message) {
    std::vector payload(message.payload().begin(), message.payload().end());
    for (std::size_t i = sizeof(ConfigHeader); i < payload.size(); ++i) payload[i] = std::byte{9};
    return payload;
  };
  ScriptedBackend backend(replies);
  Frontend frontend = backend.make_frontend();
  std::array<std::byte, 3> part{};
  ASSERT_TRUE(frontend.get_config(5, part).has_value());
  EXPECT_EQ(part[2], std::byte{9});
}

TEST(Frontend, MissingConfigSpaceIsUnsupported) {
  auto replies = modern_backend();
  replies[Request::kGetConfig] = [](const Message&) { return std::vector<std::byte>(); };
  ScriptedBackend backend(replies);
  Frontend frontend = backend.make_frontend();
  std::array<std::byte, 96> space{};
  EXPECT_EQ(frontend.get_config(0, space).error().kind, ErrorKind::kUnsupported);
}

TEST(Frontend, RepliesOfAnotherSizeAreRefused) {
  ScriptedBackend backend({{Request::kGetFeatures, ScriptedBackend::always(std::uint32_t{6})},
                           {Request::kGetConfig, ScriptedBackend::always(std::uint32_t{6})},
                           {Request::kGetVringBase, ScriptedBackend::always(VringState{1, 7})}});
  Frontend frontend = backend.make_frontend();
  EXPECT_EQ(frontend.get_features().error().kind, ErrorKind::kPeerFault);
  std::array<std::byte, 8> part{};
  EXPECT_EQ(frontend.get_config(0, part).error().kind, ErrorKind::kPeerFault);
  EXPECT_EQ(frontend.get_vring_base(0).error().kind, ErrorKind::kPeerFault) << "another queue's";
  EXPECT_EQ(*frontend.get_vring_base(1), 7u);
}

TEST(Frontend, ADeadBackendIsATimeout) {
  ScriptedBackend backend({});
  Frontend frontend = backend.make_frontend(milliseconds(20));
  EXPECT_EQ(frontend.get_features().error().host_errno, ETIMEDOUT);
}

TEST(Frontend, VringDescriptorMessagesCarryTheQueueAndTheNoFdFlag) {
  ScriptedBackend backend(modern_backend());
  {
    Frontend frontend = backend.make_frontend();
    ASSERT_TRUE(frontend.set_vring_kick(2, STDERR_FILENO).has_value());
    ASSERT_TRUE(frontend.set_vring_call(3, std::nullopt).has_value());
  }
  const auto& received = backend.join();
  ASSERT_EQ(received.size(), 2u);
  EXPECT_EQ(received[0].payload[0], std::byte{2});
  EXPECT_EQ(received[0].payload[1], std::byte{0});
  EXPECT_EQ(received[0].descriptors, 1u);
  EXPECT_EQ(received[1].payload[0], std::byte{3});
  EXPECT_EQ(received[1].payload[1], std::byte{1});
  EXPECT_EQ(received[1].descriptors, 0u);
}

TEST(FrontendMemory, AllocatesAlignedRangesUntilItIsFull) {
  auto memory = FrontendMemory::create(8 * kPageSize, Gpa(0x10000));
  ASSERT_TRUE(memory.has_value());
  const auto first = memory->allocate(10, 1);
  const auto second = memory->allocate(10, 512);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->gpa, Gpa(0x10000));
  EXPECT_EQ(second->gpa, Gpa(0x10200));
  EXPECT_EQ(second->host - first->host, 0x200);
  EXPECT_EQ(memory->allocate(8 * kPageSize, 1).error().kind, ErrorKind::kTooLarge);
  EXPECT_TRUE(memory->allocate(7 * kPageSize, kPageSize).has_value());
}

TEST(FrontendMemory, IsAFileForTheBackendToMap) {
  const auto memory = FrontendMemory::create(2 * kPageSize);
  ASSERT_TRUE(memory.has_value());
  memory->whole().host[kPageSize] = std::byte{5};
  const auto region = memory->region();
  char byte = 0;
  ASSERT_EQ(::pread(region.fd, &byte, 1, kPageSize), 1);
  EXPECT_EQ(byte, 5);
  EXPECT_EQ(region.where.size, 2 * kPageSize);
  EXPECT_EQ(region.where.mmap_offset, 0u);
}

TEST(FrontendQueue, StartsWithAllSetupMessages) {
  ASSERT_TRUE(mem::install_fault_recovery().has_value());
  auto replies = modern_backend();
  replies[Request::kGetVringBase] = ScriptedBackend::echo();
  ScriptedBackend backend(replies);
  {
    Frontend frontend = backend.make_frontend();
    ASSERT_TRUE(frontend.negotiate(0, kProtocol).has_value());
    auto memory = FrontendMemory::create(16 * kPageSize);
    ASSERT_TRUE(memory.has_value());
    const std::array regions = {memory->region()};
    ASSERT_TRUE(frontend.set_mem_table(regions).has_value());
    auto queue = FrontendQueue::start(frontend, *memory, {.index = 1, .size = 64});
    ASSERT_TRUE(queue.has_value()) << queue.error().to_string();
    EXPECT_EQ(queue->wait_for_call(milliseconds(1)), false);
    EXPECT_TRUE(queue->kick().has_value());
    EXPECT_EQ(queue->stop(frontend), 0u);
  }
  const auto requests = requests_of(backend.join());
  const std::vector expected = {Request::kSetMemTable,    Request::kSetVringNum,
                                Request::kSetVringBase,   Request::kSetVringAddr,
                                Request::kSetVringKick,   Request::kSetVringCall,
                                Request::kSetVringEnable, Request::kGetVringBase};
  EXPECT_EQ(std::vector(requests.end() - 8, requests.end()), expected);
}

}  // namespace
}  // namespace guestio::vhost
