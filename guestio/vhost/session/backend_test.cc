// SPDX-License-Identifier: MIT
// Messages about the device, its rings and its memory, from the front-end's end of the socket.
#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "guestio/vhost/session/backend_for_test.h"
#include "testing/descriptor_limit.h"

namespace guestio::vhost {
namespace {

using test::kLimit;
using test::make_sockets;

constexpr ProtocolBits kNotificationFeatures =
    kProtocolMq | kProtocolConfig | kProtocolReplyAck | kProtocolBackendReq;
constexpr auto kConfigChange = std::to_underlying(BackendRequest::kConfigChangeMsg);

class BackendTest : public test::BackendFixture {
 protected:
  /// Negotiates, and opens the back channel.
  void open_channel() {
    negotiate(kNotificationFeatures);
    channel_ = open_second_channel();
  }
  UniqueFd open_second_channel() {
    auto [ours, theirs] = make_sockets();
    EXPECT_TRUE(frontend_->set_backend_req_fd(theirs.get()));
    return std::move(ours);
  }
  void change_config() {
    home_->call([this] { backend_->notify_config_changed(); });
  }
  bool can_notify_config_change() {
    bool hears = false;
    home_->call([&] { hears = backend_->can_notify_config_change(); });
    return hears;
  }
  /// Whether the backend sent nothing although it had the time to.
  bool is_silent() {
    EXPECT_TRUE(frontend_->get_features().has_value());
    std::byte byte{};
    return ::recv(channel_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }
  /// The header of its next message.
  MessageHeader receive_message_of_backend() {
    MessageHeader header{};
    const timeval limit{.tv_sec = kLimit.count(), .tv_usec = 0};
    EXPECT_EQ(::setsockopt(channel_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
    EXPECT_EQ(::recv(channel_.get(), &header, sizeof header, MSG_WAITALL),
              static_cast<ssize_t>(sizeof header));
    return header;
  }
  void acknowledge(std::uint64_t code = 0, std::uint32_t request = kConfigChange) {
    std::array<std::byte, sizeof(MessageHeader) + sizeof code> bytes;
    const MessageHeader header{request, kMessageVersion | kMessageReply, sizeof code};
    std::memcpy(bytes.data(), &header, sizeof header);
    std::memcpy(bytes.data() + sizeof header, &code, sizeof code);
    EXPECT_EQ(::send(channel_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  UniqueFd channel_;
};

TEST_F(BackendTest, Rule11ConfigChangesAreSentIfNegotiated) {
  open_channel();
  start_ring();
  EXPECT_TRUE(can_notify_config_change());
  change_config();
  const MessageHeader received = receive_message_of_backend();
  EXPECT_EQ(received.request, kConfigChange);
  EXPECT_EQ(received.flags, kMessageVersion | kMessageNeedReply);
  EXPECT_EQ(received.size, 0u);
  acknowledge();
  change_config();
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange);
}

TEST_F(BackendTest, Rule11NothingIsSentWhileNoRingRuns) {
  open_channel();
  change_config();
  change_config();
  EXPECT_TRUE(is_silent());
  start_ring();
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange) << "the pending change";
  acknowledge();
  EXPECT_TRUE(is_silent()) << "two changes, one message";
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  change_config();
  EXPECT_TRUE(is_silent());
}

TEST_F(BackendTest, Rule11ChangesCoalesceUntilAcknowledged) {
  open_channel();
  start_ring();
  change_config();
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange);
  for (int i = 0; i < 100; ++i) change_config();
  EXPECT_TRUE(is_silent()) << "the first is not acknowledged";
  acknowledge();
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange);
  acknowledge();
  EXPECT_TRUE(is_silent());
}

TEST_F(BackendTest, Rule11NoAcknowledgementIsRequestedWithoutReplyAck) {
  negotiate(kNotificationFeatures & ~kProtocolReplyAck);
  channel_ = open_second_channel();
  start_ring();
  EXPECT_TRUE(is_silent());
  change_config();
  EXPECT_EQ(receive_message_of_backend().flags, kMessageVersion);
  change_config();
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange);
}

TEST_F(BackendTest, Rule11NothingIsSentWithoutFeatureOrSocket) {
  negotiate(kProtocolMq | kProtocolReplyAck | kProtocolBackendReq);
  EXPECT_FALSE(can_notify_config_change()) << "no socket";
  channel_ = open_second_channel();
  start_ring();
  EXPECT_FALSE(can_notify_config_change()) << "CONFIG not negotiated";
  change_config();
  EXPECT_TRUE(is_silent());
}

TEST_F(BackendTest, Rule11AMalformedAcknowledgementEndsTheBackChannelARefusalDoesNot) {
  open_channel();
  start_ring();
  change_config();
  (void)receive_message_of_backend();
  acknowledge(1);
  change_config();
  (void)receive_message_of_backend();
  acknowledge(0, kConfigChange + 1);
  EXPECT_TRUE(frontend_->get_features().has_value());
  const auto until = std::chrono::steady_clock::now() + kLimit;
  while (can_notify_config_change() && std::chrono::steady_clock::now() < until)
    std::this_thread::yield();
  EXPECT_FALSE(can_notify_config_change());
  change_config();
  EXPECT_TRUE(is_silent());
}

TEST_F(BackendTest, ASecondBackChannelReplacesTheFirst) {
  open_channel();
  start_ring();
  change_config();
  (void)receive_message_of_backend();
  UniqueFd second = open_second_channel();
  std::byte byte{};
  EXPECT_EQ(::recv(channel_.get(), &byte, 1, 0), 0) << "closed";
  channel_ = std::move(second);
  change_config();
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange);
}

TEST_F(BackendTest, Rule4ABackChannelWithoutNegotiationOrSocketIsRefused) {
  auto [ours, theirs] = make_sockets();
  negotiate(kProtocolMq | kProtocolReplyAck);
  EXPECT_FALSE(frontend_->set_backend_req_fd(theirs.get()));
  EXPECT_FALSE(frontend_->get_status().has_value());
  EXPECT_FALSE(frontend_->set_status(1));
  EXPECT_FALSE(frontend_->reset_device());
  ASSERT_TRUE(frontend_->set_protocol_features(kNotificationFeatures));
  EXPECT_FALSE(frontend_->set_backend_req_fd(memory_.fd())) << "no socket";
  constexpr auto kRequest = std::to_underlying(FrontendRequest::kSetBackendReqFd);
  EXPECT_FALSE(frontend_->send_message(kRequest)) << "no descriptor";
  EXPECT_FALSE(frontend_->send_message(kRequest, {}, std::array{theirs.get(), theirs.get()}));
  EXPECT_TRUE(frontend_->set_backend_req_fd(theirs.get()));
}

TEST_F(BackendTest, TheStatusIsWhatTheDriverWrote) {
  negotiate(kProtocolReplyAck | kProtocolStatus);
  EXPECT_EQ(frontend_->get_status(), 0u);
  for (const std::uint8_t status : std::array<std::uint8_t, 4>{1, 3, 11, 15}) {
    ASSERT_TRUE(frontend_->set_status(status));
    EXPECT_EQ(frontend_->get_status(), status);
  }
  const std::uint64_t too_much = 0x100;
  EXPECT_FALSE(frontend_->send_message(std::to_underlying(FrontendRequest::kSetStatus),
                                       std::as_bytes(std::span(&too_much, 1))));
  EXPECT_EQ(frontend_->get_status(), 15u);
  ASSERT_TRUE(frontend_->set_status(0));
  EXPECT_EQ(frontend_->get_status(), 0u);
}

/// Both kinds of reset: the ring stops, and a new one runs from base 0.
TEST_F(BackendTest, AResetStopsTheRingsAndTheyCanBeSetUpAgain) {
  negotiate(kProtocolReplyAck | kProtocolStatus | kProtocolResetDevice);
  start_ring();
  EXPECT_TRUE(is_served());
  ASSERT_TRUE(frontend_->set_status(0));
  EXPECT_EQ(frontend_->get_vring_base(0), 1u) << "QEMU 7.2 asks for it after the reset";
  EXPECT_TRUE(frontend_->set_vring_base(0, 0)) << "a running ring would refuse";
  start_ring();
  EXPECT_TRUE(is_served());
  ASSERT_TRUE(frontend_->reset_device());
  EXPECT_TRUE(frontend_->set_vring_base(0, 0));
  start_ring();
  EXPECT_TRUE(is_served());
}

TEST_F(BackendTest, TheDeviceIsInUseWhileARingRuns) {
  negotiate(kProtocolReplyAck);
  const auto uses = [this] {
    int count = 0;
    home_->call([&] { count = device_.uses; });
    return count;
  };
  EXPECT_EQ(uses(), 0);
  start_ring();
  EXPECT_EQ(uses(), 1);
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  EXPECT_EQ(uses(), 0) << "before the reply";
  start_ring();
  EXPECT_EQ(uses(), 1);
}

TEST_F(BackendTest, NoRingStartsWhileTheDeviceIsUnavailable) {
  negotiate(kProtocolReplyAck);
  home_->call([this] { device_.is_unavailable = true; });
  EXPECT_FALSE(FrontendQueue::start(*frontend_, memory_, {.index = 0, .size = 16}).has_value());
  EXPECT_TRUE(frontend_->set_vring_base(0, 0)) << "a running ring would refuse";
  home_->call([this] { device_.is_unavailable = false; });
  start_ring();
  EXPECT_TRUE(is_served());
}

TEST_F(BackendTest, Rule27AMalformedChainWithoutAStatusStopsItsRingAndTheDeviceNeedsReset) {
  constexpr std::uint64_t kRunning = 0xf;
  constexpr std::uint64_t kNeedsReset = 0x40;
  negotiate(kNotificationFeatures | kProtocolStatus);
  channel_ = open_second_channel();
  start_ring();
  const UniqueFd error(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_TRUE(frontend_->set_vring_err(0, error.get()));
  ASSERT_TRUE(frontend_->set_status(kRunning));
  EXPECT_TRUE(is_served());
  EXPECT_EQ(frontend_->get_status(), kRunning);
  // The device cannot write a status into a malformed chain.
  const Gpa memory = memory_.allocate(64, 64)->gpa;
  const std::array chain = {virtio::DriverSegment{memory, 1, virtio::Direction::kWritable},
                            virtio::DriverSegment{memory, 16, virtio::Direction::kReadable}};
  ASSERT_TRUE(queue_->ring().add(chain));
  ASSERT_TRUE(queue_->ring().publish());
  ASSERT_TRUE(queue_->kick());
  pollfd poller{.fd = error.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&poller, 1, static_cast<int>(std::chrono::milliseconds(kLimit).count())), 1);
  EXPECT_EQ(frontend_->get_status(), kRunning | kNeedsReset);
  EXPECT_EQ(receive_message_of_backend().request, kConfigChange) << "a running driver is notified";
  EXPECT_EQ(queue_->ring().reap()->has_value(), false) << "never returned";
  ASSERT_TRUE(frontend_->set_status(kRunning | kNeedsReset)) << "a front-end may write it back";
  ASSERT_TRUE(frontend_->set_status(0));
  EXPECT_EQ(frontend_->get_status(), 0U);
}

TEST_F(BackendTest, Rule5SetFeaturesReplacesTheSetWhileRingsRun) {
  constexpr std::uint64_t kPacked = virtio::kFeatureRingPacked | virtio::kFeatureVersion1;
  negotiate(kProtocolReplyAck, kPacked);
  start_ring();
  ASSERT_TRUE(frontend_->set_features(kFeatureProtocolFeatures)) << "bits may clear";
  const auto region = memory_.region();
  EXPECT_TRUE(frontend_->set_mem_table(std::span(&region, 1)));
  EXPECT_TRUE(is_served()) << "the packed ring still runs";
  ASSERT_TRUE(frontend_->get_vring_base(0).has_value());
  memory_ = std::move(*FrontendMemory::create(std::size_t{1} << 20));
  const auto fresh = memory_.region();
  EXPECT_TRUE(frontend_->set_mem_table(std::span(&fresh, 1)));
  start_ring();
  EXPECT_FALSE(frontend_->set_vring_base(0, 0)) << "a split ring runs";
}

TEST_F(BackendTest, Rule44ARingInARegionOfAnySizeAndOffsetIsServed) {
  constexpr std::size_t kOffset = 16;
  constexpr std::size_t kSize = 4 * kPageSize + 7568;  // libblkio's regions end inside a page, too
  ASSERT_TRUE(frontend_->negotiate(0, kProtocolReplyAck).has_value());
  auto region = memory_.region();
  (void)*memory_.allocate(kOffset, kOffset);
  region.where.guest_address += kOffset;
  region.where.user_address += kOffset;
  region.where.mmap_offset += kOffset;
  region.where.size = kSize;
  ASSERT_TRUE(frontend_->set_mem_table(std::span(&region, 1)));
  start_ring();
  EXPECT_TRUE(is_served());
  const Gpa end(region.where.guest_address + kSize);
  const auto answer_to = [&](Gpa start) {
    SharedRange piece = memory_.whole().part(0, 64);
    piece.gpa = start;
    send(piece);
    return is_completed();
  };
  EXPECT_TRUE(answer_to(Gpa(end.raw() - 64)));
  EXPECT_TRUE(answer_to(Gpa(region.where.guest_address)));
}

TEST_F(BackendTest, Rule45AMemoryTableLongerThanItsRegionsIsAccepted) {
  ASSERT_TRUE(frontend_->negotiate(0, kProtocolReplyAck).has_value());
  const auto region = memory_.region();
  struct {
    MemoryTableHeader header;
    std::array<MemoryRegion, 2> regions;
  } table{{1, 0}, {region.where, {~std::uint64_t{0}, 1, 2, 3}}};
  const auto bytes = std::as_bytes(std::span(&table, 1));
  constexpr auto kSet = std::to_underlying(FrontendRequest::kSetMemTable);
  ASSERT_TRUE(frontend_->send_message(kSet, bytes, std::span(&region.fd, 1)));
  start_ring();
  EXPECT_TRUE(is_served());
  EXPECT_FALSE(frontend_->send_message(
      kSet, bytes.first(sizeof table.header + sizeof(MemoryRegion) - 1), std::span(&region.fd, 1)))
      << "too short";
  table.header.num_regions = 3;
  EXPECT_FALSE(frontend_->send_message(kSet, bytes, std::array{region.fd, region.fd, region.fd}));
  EXPECT_TRUE(is_served());
}

TEST_F(BackendTest, Rule45AConfigurationMessageMayBeLongerThanItsBytes) {
  negotiate(kProtocolReplyAck | kProtocolConfig);
  struct {
    ConfigHeader header;
    std::array<std::byte, 60> bytes;
  } message{{.offset = 0, .size = 8, .flags = 0}, {}};
  const auto bytes = std::as_bytes(std::span(&message, 1));
  Message answer;
  ASSERT_TRUE(frontend_->send_and_receive(std::to_underlying(FrontendRequest::kGetConfig), bytes,
                                          {}, answer));
  EXPECT_EQ(answer.header.size, sizeof message.header + 8);
  constexpr auto kSet = std::to_underlying(FrontendRequest::kSetConfig);
  EXPECT_TRUE(frontend_->send_message(kSet, bytes));
  message.header.size = sizeof message.bytes + 1;
  EXPECT_FALSE(frontend_->send_message(kSet, bytes)) << "too short";
}

TEST_F(BackendTest, Rule48AnUnusableCallDescriptorEndsTheConnection) {
  negotiate(kProtocolReplyAck);
  start_ring();
  const UniqueFd call(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  {
    // The descriptor arrives, but its notifier cannot be created.
    const testing::DescriptorLimit limit(1);
    const auto set = frontend_->set_vring_call(0, call.get());
    ASSERT_FALSE(set.has_value()) << "the driver would never be called";
    EXPECT_EQ(set.error().kind, ErrorKind::kClosed) << set.error().to_string();
  }
}

TEST_F(BackendTest, Rule48ARingWithoutDescriptorsForItsEventsDoesNotRun) {
  negotiate(kProtocolReplyAck);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  start_ring();
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  {
    const testing::DescriptorLimit limit(2);
    const auto set = frontend_->set_vring_kick(0, event.get());
    ASSERT_FALSE(set.has_value());
    EXPECT_EQ(set.error().kind, ErrorKind::kClosed) << set.error().to_string();
  }
}

/// As from User Mode Linux.
TEST_F(BackendTest, Rule13ANewPackedRingWithBaseZeroStartsInItsFirstLap) {
  negotiate(kProtocolReplyAck, virtio::kFeatureRingPacked | virtio::kFeatureVersion1);
  start_ring();
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  ASSERT_TRUE(frontend_->set_vring_base(0, 0));
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick.get()));
  send(*memory_.allocate(64, 64));
  ASSERT_EQ(::eventfd_write(kick.get(), 1), 0);
  EXPECT_TRUE(is_completed());
}

/// The first descriptor was the second of a chain across the end of the ring: it has no used flag.
TEST_F(BackendTest, Rule13AUsedPackedRingWhoseFirstDescriptorEndedAChainIsNotNew) {
  constexpr int kEntries = 16;
  negotiate(kProtocolReplyAck, virtio::kFeatureRingPacked | virtio::kFeatureVersion1);
  start_ring();
  for (int i = 0; i < 2 * kEntries - 1; ++i) ASSERT_TRUE(is_served());
  const Gpa memory = memory_.allocate(64, 64)->gpa;
  const std::array chain = {
      virtio::DriverSegment{memory, 32, virtio::Direction::kReadable},
      virtio::DriverSegment{*memory.plus(32), 32, virtio::Direction::kWritable}};
  ASSERT_TRUE(queue_->ring().add(chain).has_value());
  ASSERT_TRUE(queue_->ring().publish().has_value());
  ASSERT_TRUE(queue_->kick());
  ASSERT_TRUE(is_completed());
  for (int i = 0; i < kEntries - 1; ++i) ASSERT_TRUE(is_served());
  const auto base = queue_->stop(*frontend_);
  ASSERT_TRUE(base.has_value());
  ASSERT_EQ(*base, 0U);
  ASSERT_TRUE(frontend_->set_vring_base(0, *base));
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick.get()));
  // A device in the wrong lap would take the earlier chain again.
  send(*memory_.allocate(64, 64));
  ASSERT_EQ(::eventfd_write(kick.get(), 1), 0);
  ASSERT_TRUE(is_completed());
  EXPECT_EQ(queue_->stop(*frontend_), 1U | 1U << 16);
}

TEST_F(BackendTest, Rule13AUsedPackedRingWithBaseZeroResumesInItsNextLap) {
  negotiate(kProtocolReplyAck, virtio::kFeatureRingPacked | virtio::kFeatureVersion1);
  start_ring();
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(is_served());
  const auto base = queue_->stop(*frontend_);
  ASSERT_TRUE(base.has_value());
  EXPECT_EQ(*base, 0U) << "one lap: both wrap counters changed";
  ASSERT_TRUE(frontend_->set_vring_base(0, *base));
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick.get()));
  send(*memory_.allocate(64, 64));
  ASSERT_EQ(::eventfd_write(kick.get(), 1), 0);
  EXPECT_TRUE(is_completed());
}

class FewMemorySlotsTest : public BackendTest {
 protected:
  FewMemorySlotsTest() { memory_slots_ = 4; }

  /// Sends `request` for page `number` of another part of memory.
  Result<> tell(FrontendRequest request, std::uint64_t number) {
    auto region = memory_.region();
    region.where.guest_address += (std::uint64_t{1} << 32) + number * kPageSize;
    region.where.size = kPageSize;
    const SingleMemoryRegion message{0, region.where};
    const bool has_file = request == FrontendRequest::kAddMemReg;
    return frontend_->send_message(std::to_underlying(request),
                                   std::as_bytes(std::span(&message, 1)),
                                   std::span(&region.fd, has_file ? 1 : 0));
  }
  Result<> add(std::uint64_t number) { return tell(FrontendRequest::kAddMemReg, number); }
  Result<> remove(std::uint64_t number) { return tell(FrontendRequest::kRemMemReg, number); }
  /// Waits until the device holds `wanted` chains.
  void wait_for_held(std::size_t wanted) {
    std::size_t count = 0;
    while (count != wanted) {
      with_handler([&](test::IdleQueue& handler) { count = handler.count(); });
    }
  }
};

TEST_F(FewMemorySlotsTest, Rule48RegionsOfRequestsInFlightAreCounted) {
  negotiate(kProtocolReplyAck | kProtocolConfigureMemSlots);
  start_ring();
  with_handler([](test::IdleQueue& handler) { handler.holds = true; });
  // Each request keeps three removed regions.
  std::uint64_t number = 0;
  for (std::size_t round = 1; round <= 6; ++round) {
    for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(add(number + i)) << round;
    send(*memory_.allocate(64, 64));
    wait_for_held(round);
    for (std::uint64_t i = 0; i < 3; ++i) ASSERT_TRUE(remove(number + i)) << round;
    number += 3;
  }
  EXPECT_TRUE(add(number)) << "the ring's, 18 removed ones, and this";
  EXPECT_FALSE(add(number + 1)) << "the disk stalls: no more";
  EXPECT_TRUE(remove(number));
  with_handler([](test::IdleQueue& handler) {
    handler.holds = false;
    handler.finish([](virtio::PoppedChain&) {});
  });
  // The control thread releases them soon.
  while (!add(number + 1)) std::this_thread::yield();
  EXPECT_TRUE(add(number + 2));
  EXPECT_TRUE(add(number + 3));
  EXPECT_FALSE(add(number + 4)) << "four slots";
}

}  // namespace
}  // namespace guestio::vhost
