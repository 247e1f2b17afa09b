// SPDX-License-Identifier: MIT
// In-band notifications: kicks, calls and errors as messages.
#include <cerrno>
#include <cstring>

#include "guestio/vhost/session/backend_for_test.h"

namespace guestio::vhost {
namespace {

using test::kLimit;

constexpr ProtocolBits kRequiredFeatures = kProtocolReplyAck | kProtocolBackendReq;
constexpr ProtocolBits kInband = kRequiredFeatures | kProtocolInbandNotifications;
constexpr auto kCall = std::to_underlying(BackendRequest::kVringCall);
constexpr auto kError = std::to_underlying(BackendRequest::kVringErr);

class InbandTest : public test::BackendFixture {
 protected:
  struct BackendMessage {
    MessageHeader header;
    VringState ring;
  };

  void open_channel() {
    auto [ours, theirs] = test::make_sockets();
    EXPECT_TRUE(frontend_->set_backend_req_fd(theirs.get()));
    channel_ = std::move(ours);
    const timeval limit{.tv_sec = kLimit.count(), .tv_usec = 0};
    EXPECT_EQ(::setsockopt(channel_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
  }
  /// The next message of the backend.
  BackendMessage receive_message_of_backend() {
    BackendMessage received{};
    EXPECT_EQ(::recv(channel_.get(), &received, sizeof received, MSG_WAITALL),
              static_cast<ssize_t>(sizeof received));
    return received;
  }
  void acknowledge(std::uint32_t request) {
    struct {
      MessageHeader header;
      std::uint32_t code[2];
    } const answer{{request, kMessageVersion | kMessageReply, sizeof answer.code}, {0, 0}};
    EXPECT_EQ(::send(channel_.get(), &answer, sizeof answer, MSG_NOSIGNAL),
              static_cast<ssize_t>(sizeof answer));
  }
  bool is_silent() {
    EXPECT_TRUE(frontend_->get_features().has_value());
    std::byte byte{};
    return ::recv(channel_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }
  Result<> kick(VringState ring = {0, 0}) {
    return frontend_->send_message(std::to_underlying(FrontendRequest::kVringKick),
                                   std::as_bytes(std::span(&ring, 1)));
  }
  /// Adds a chain to the ring without a kick.
  void add_chain() {
    const auto piece = *memory_.allocate(64, 64);
    const virtio::DriverSegment segment{piece.gpa, static_cast<std::uint32_t>(piece.size),
                                        virtio::Direction::kWritable};
    EXPECT_TRUE(queue_->ring().add(std::span(&segment, 1)).has_value());
    EXPECT_TRUE(queue_->ring().publish().has_value());
  }
  /// The number of uses of the device.
  int uses() {
    int count = 0;
    home_->call([&] { count = device_.uses; });
    return count;
  }
  /// Starts a ring with in-band events, and takes the call of its start.
  void start_inband_ring() {
    open_channel();
    start_ring();
    EXPECT_TRUE(frontend_->set_vring_kick(0, std::nullopt));
    EXPECT_TRUE(frontend_->set_vring_call(0, std::nullopt));
    EXPECT_EQ(receive_message_of_backend().header.request, kCall) << "an earlier call may be lost";
    acknowledge(kCall);
  }

  UniqueFd channel_;
};

TEST_F(InbandTest, Rule10KicksAndCallsAreMessages) {
  negotiate(kInband);
  ASSERT_NE(frontend_->negotiated().protocol & kProtocolInbandNotifications, 0u);
  start_inband_ring();
  for (int i = 0; i < 3; ++i) {
    add_chain();
    ASSERT_TRUE(kick());
    const BackendMessage received = receive_message_of_backend();
    EXPECT_EQ(received.header.request, kCall);
    EXPECT_EQ(received.header.flags, kMessageVersion | kMessageNeedReply);
    EXPECT_EQ(received.ring.index, 0u);
    EXPECT_EQ(received.ring.num, 0u);
    acknowledge(kCall);
    const auto used = queue_->ring().reap();
    ASSERT_TRUE(used.has_value());
    EXPECT_TRUE(used->has_value()) << "the used entry precedes the call";
  }
}

TEST_F(InbandTest, Rule10CallsCoalesceUntilAcknowledged) {
  negotiate(kInband);
  start_inband_ring();
  add_chain();
  ASSERT_TRUE(kick());
  EXPECT_EQ(receive_message_of_backend().header.request, kCall);
  for (int i = 0; i < 10; ++i) {
    add_chain();
    ASSERT_TRUE(kick());
    ASSERT_TRUE(is_completed());
  }
  EXPECT_TRUE(is_silent()) << "the first call is not acknowledged";
  acknowledge(kCall);
  EXPECT_EQ(receive_message_of_backend().header.request, kCall);
}

TEST_F(InbandTest, Rule10CallsAreResentOnANewBackChannel) {
  negotiate(kInband);
  start_inband_ring();
  open_channel();
  EXPECT_EQ(receive_message_of_backend().header.request, kCall);
}

TEST_F(InbandTest, Rule10DescriptorsOfTheFrontEndTakePrecedence) {
  negotiate(kInband);
  open_channel();
  start_ring();
  EXPECT_TRUE(is_served());
  EXPECT_TRUE(kick()) << "without effect on a ring with a kick descriptor";
  EXPECT_TRUE(is_served());
  EXPECT_TRUE(is_silent());
}

TEST_F(InbandTest, Rule10And19ABrokenRingSignalsVringErr) {
  negotiate(kInband);
  open_channel();
  constexpr std::uint16_t kSize = 16;
  const auto descriptors = *memory_.allocate(std::size_t{kSize} * 16, 16);
  const auto available = *memory_.allocate(6 + kSize * 2, 2);
  const auto used = *memory_.allocate(6 + kSize * 8, 4);
  const std::uint16_t too_many = kSize + 1;
  std::memcpy(available.host + 2, &too_many, sizeof too_many);
  EXPECT_TRUE(frontend_->set_vring_num(0, kSize));
  EXPECT_TRUE(frontend_->set_vring_base(0, 0));
  EXPECT_TRUE(
      frontend_->set_vring_addr({.index = 0,
                                 .flags = 0,
                                 .descriptor = FrontendMemory::frontend_address(descriptors).raw(),
                                 .used = FrontendMemory::frontend_address(used).raw(),
                                 .available = FrontendMemory::frontend_address(available).raw(),
                                 .log = 0}));
  EXPECT_TRUE(frontend_->set_vring_err(0, std::nullopt));
  EXPECT_TRUE(frontend_->set_vring_kick(0, std::nullopt));
  EXPECT_TRUE(frontend_->set_vring_enable(0, true));
  ASSERT_TRUE(kick());
  const BackendMessage received = receive_message_of_backend();
  EXPECT_EQ(received.header.request, kError);
  EXPECT_EQ(received.ring.index, 0u);
}

/// As from User Mode Linux: no message says that the ring has no descriptors.
TEST_F(InbandTest, Rule46AKickStartsARingWithoutDescriptors) {
  negotiate(kInband);
  open_channel();
  const SharedRange descriptors = *memory_.allocate(16 * 16, 16);
  const SharedRange available = *memory_.allocate(6 + 16 * 2, 2);
  const SharedRange used = *memory_.allocate(6 + 16 * 8, 4);
  const SharedRange buffer = *memory_.allocate(64, 64);
  EXPECT_TRUE(frontend_->set_vring_num(0, 16));
  EXPECT_TRUE(frontend_->set_vring_base(0, 0));
  EXPECT_TRUE(
      frontend_->set_vring_addr({.index = 0,
                                 .flags = 0,
                                 .descriptor = FrontendMemory::frontend_address(descriptors).raw(),
                                 .used = FrontendMemory::frontend_address(used).raw(),
                                 .available = FrontendMemory::frontend_address(available).raw(),
                                 .log = 0}));
  EXPECT_TRUE(frontend_->set_vring_enable(0, true));
  EXPECT_EQ(uses(), 0) << "not kicked yet";
  const virtio::Descriptor chain{buffer.gpa.raw(), 64, virtio::kDescriptorWrite, 0};
  std::memcpy(descriptors.host, &chain, sizeof chain);
  const std::uint16_t one = 1;
  std::memcpy(available.host + 2, &one, sizeof one);
  ASSERT_TRUE(kick());
  const BackendMessage received = receive_message_of_backend();
  EXPECT_EQ(received.header.request, kCall);
  EXPECT_EQ(received.ring.index, 0u);
  EXPECT_EQ(uses(), 1);
  // The call of the start may precede the used entry; another call follows then.
  acknowledge(kCall);
  std::uint16_t answers = 0;
  std::memcpy(&answers, used.host + 2, sizeof answers);
  if (answers == 0) {
    EXPECT_EQ(receive_message_of_backend().header.request, kCall);
    acknowledge(kCall);
    std::memcpy(&answers, used.host + 2, sizeof answers);
  }
  EXPECT_EQ(answers, 1);
}

TEST_F(InbandTest, Rule46AKickRestartsAStoppedRing) {
  negotiate(kInband);
  start_inband_ring();
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  EXPECT_EQ(uses(), 0);
  add_chain();
  ASSERT_TRUE(kick());
  EXPECT_EQ(uses(), 1);
  EXPECT_EQ(receive_message_of_backend().header.request, kCall);
  acknowledge(kCall);
  EXPECT_TRUE(is_completed());
}

TEST_F(InbandTest, Rule10InbandNotificationsRequireBackendReqAndReplyAck) {
  negotiate(kRequiredFeatures);
  EXPECT_FALSE(kick()) << "not negotiated";
  for (const ProtocolBits missing : {kProtocolReplyAck, kProtocolBackendReq}) {
    EXPECT_FALSE(frontend_->set_protocol_features(kInband & ~missing));
  }
  EXPECT_EQ(frontend_->negotiated().offered_protocol >> 20, 0u)
      << "bits with different meanings between versions";
  ASSERT_TRUE(frontend_->set_protocol_features(kInband));
  EXPECT_TRUE(kick()) << "without effect on a ring without in-band kicks";
  EXPECT_FALSE(kick({.index = 1, .num = 0})) << "no such ring";
  EXPECT_FALSE(kick({.index = 0, .num = 1})) << "reserved";
  EXPECT_TRUE(frontend_->get_features().has_value()) << "not fatal";
}

}  // namespace
}  // namespace guestio::vhost
