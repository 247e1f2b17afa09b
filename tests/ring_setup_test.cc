// SPDX-License-Identifier: MIT
// Start, stop and failure of rings, message by message.
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "guestio/virtio/split_driver_ring.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

namespace vblk = virtio::blk;
using namespace std::chrono_literals;
using virtio::Direction;

constexpr auto kPatience = 60s;
// The wait for an event that must not happen.
constexpr auto kShortWait = 100ms;
constexpr std::uint64_t kFeatures = virtio::kFeatureVersion1 | vblk::kFeatureFlush;

/// A split ring of the test's own in the guest's scratch memory, announced to the backend message
/// by message.
class RawSplitRing {
 public:
  static constexpr std::uint16_t kSize = 16;

  RawSplitRing(testing::BlkGuest& guest, std::uint32_t index)
      : frontend_(guest.frontend()),
        index_(index),
        memory_(guest.scratch().part(std::size_t{index} * 65536, 65536)),
        driver_(*virtio::SplitDriverRing::create(parts(), kFeatures)) {}

  /// Sends everything but the descriptors.
  void describe() {
    const auto address = [this](std::size_t at) {
      return vhost::FrontendMemory::frontend_address(memory_.part(at, 4096)).raw();
    };
    ASSERT_TRUE(frontend_.set_vring_num(index_, kSize));
    ASSERT_TRUE(frontend_.set_vring_base(index_, 0));
    ASSERT_TRUE(
        frontend_.set_vring_addr({index_, 0, address(0), address(kUsed), address(kAvail), 0}));
  }
  Result<> set_kick() { return frontend_.set_vring_kick(index_, kick_.get()); }
  Result<> set_call() { return frontend_.set_vring_call(index_, call_.get()); }
  Result<> set_err() { return frontend_.set_vring_err(index_, error_.get()); }
  Result<> enable(bool enabled = true) { return frontend_.set_vring_enable(index_, enabled); }
  void start() {
    describe();
    ASSERT_TRUE(set_call());
    ASSERT_TRUE(set_err());
    ASSERT_TRUE(set_kick());
    ASSERT_TRUE(enable());
  }

  /// Adds a flush without a kick.
  void put_flush() {
    const vblk::RequestHeader header{vblk::RequestType::kFlush, 0, 0};
    std::memcpy(memory_.host + kHeader, &header, sizeof header);
    const Gpa at = memory_.gpa.plus_unchecked(kHeader);
    const std::array chain = {
        virtio::DriverSegment{at, sizeof header, Direction::kReadable},
        virtio::DriverSegment{at.plus_unchecked(64), 1, Direction::kWritable}};
    ASSERT_TRUE(driver_.add(chain));
    ASSERT_TRUE(driver_.publish());
  }
  void send_flush() {
    put_flush();
    kick();
  }
  void kick() { ASSERT_EQ(::eventfd_write(kick_.get(), 1), 0); }
  /// Whether a chain completes within `limit`.
  bool is_answered(std::chrono::milliseconds limit = kPatience) {
    bool has_come = false;
    (void)wait_until(
        [&] {
          const auto used = driver_.reap();
          has_come = used && *used;
          return !used || has_come;
        },
        limit);
    return has_come;
  }
  bool is_called() const { return is_signalled(call_); }
  bool has_failed() const { return is_signalled(error_); }
  /// Publishes an available index beyond the size of the ring.
  void publish_invalid_index() {
    const std::uint16_t index = 1000;
    std::memcpy(memory_.host + kAvail + 2, &index, sizeof index);
    kick();
  }

 private:
  static constexpr std::size_t kAvail = 4096;
  static constexpr std::size_t kUsed = 8192;
  static constexpr std::size_t kHeader = 16384;

  [[nodiscard]] virtio::SplitRing parts() const {
    return *virtio::SplitRing::at(memory_.host, memory_.host + kAvail, memory_.host + kUsed, kSize);
  }
  /// Waits for a signal and consumes it.
  static bool is_signalled(const UniqueFd& event) {
    pollfd poller{.fd = event.get(), .events = POLLIN, .revents = 0};
    const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
    eventfd_t count = 0;
    return ::poll(&poller, 1, static_cast<int>(limit.count())) == 1 &&
           ::eventfd_read(event.get(), &count) == 0;
  }
  static UniqueFd make_event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

  vhost::Frontend& frontend_;
  const std::uint32_t index_;
  const vhost::SharedRange memory_;
  virtio::SplitDriverRing driver_;
  const UniqueFd kick_ = make_event();
  const UniqueFd call_ = make_event();
  const UniqueFd error_ = make_event();
};

class RingSetupTest : public BackendTest {
 protected:
  void SetUp() override { start({"--num-queues", "2"}); }
  std::unique_ptr<testing::BlkGuest> connect_without_rings() {
    return connect({.features = kFeatures, .queues = 0});
  }
};

TEST_F(RingSetupTest, Rule14StoppingARingLeavesTheOthersRunning) {
  const auto guest = connect_without_rings();
  RawSplitRing first(*guest, 0);
  RawSplitRing second(*guest, 1);
  first.start();
  second.start();
  first.send_flush();
  ASSERT_TRUE(first.is_answered());
  EXPECT_EQ(guest->frontend().get_vring_base(0), 1u);
  for (int i = 0; i < 10; ++i) {
    second.send_flush();
    ASSERT_TRUE(second.is_answered());
  }
  first.send_flush();
  EXPECT_FALSE(first.is_answered(kShortWait));
  ASSERT_TRUE(guest->frontend().set_vring_base(0, 1));
  ASSERT_TRUE(first.set_kick());
  EXPECT_TRUE(first.is_answered()) << "requests submitted meanwhile complete after the restart";
}

TEST_F(RingSetupTest, Rule15KickCallAndEnableComeInAnyOrder) {
  std::array order = {0, 1, 2};
  do {
    const auto guest = connect_without_rings();
    RawSplitRing ring(*guest, 0);
    ring.describe();
    for (const int step : order) {
      ASSERT_TRUE(step == 0 ? ring.set_kick() : step == 1 ? ring.set_call() : ring.enable());
    }
    ring.send_flush();
    EXPECT_TRUE(ring.is_answered());
    EXPECT_TRUE(ring.is_called());
    ASSERT_TRUE(ring.enable(false));
    ring.send_flush();
    EXPECT_FALSE(ring.is_answered(kShortWait));
    ASSERT_TRUE(ring.enable());
    EXPECT_TRUE(ring.is_answered()) << "it resumes at its base";
  } while (std::ranges::next_permutation(order).found);
}

TEST_F(RingSetupTest, Rule16WithoutProtocolFeaturesRingsBeginEnabled) {
  const auto guest = connect_without_rings();
  ASSERT_TRUE(guest->frontend().set_features(kFeatures));
  RawSplitRing ring(*guest, 0);
  ring.describe();
  ASSERT_TRUE(ring.set_call());
  ASSERT_TRUE(ring.set_kick());
  ring.send_flush();
  EXPECT_TRUE(ring.is_answered());
}

TEST_F(RingSetupTest, Rule16WithProtocolFeaturesRingsBeginDisabled) {
  const auto guest = connect_without_rings();
  RawSplitRing ring(*guest, 0);
  ring.describe();
  ASSERT_TRUE(ring.set_call());
  ASSERT_TRUE(ring.set_kick());
  ring.send_flush();
  EXPECT_FALSE(ring.is_answered(kShortWait));
  ASSERT_TRUE(ring.enable());
  EXPECT_TRUE(ring.is_answered());
}

TEST_F(RingSetupTest, Rule17StartAndEnablePollTheRingAndCallItsDriver) {
  const auto guest = connect_without_rings();
  RawSplitRing ring(*guest, 0);
  ring.describe();
  ASSERT_TRUE(ring.set_call());
  ASSERT_TRUE(ring.enable());
  ring.put_flush();
  ASSERT_TRUE(ring.set_kick());
  EXPECT_TRUE(ring.is_answered()) << "without a kick";
  EXPECT_TRUE(ring.is_called());
  ASSERT_TRUE(ring.enable(false));
  ring.put_flush();
  ASSERT_TRUE(ring.enable());
  EXPECT_TRUE(ring.is_answered()) << "without a kick";
}

TEST_F(RingSetupTest, Rule17TheDriverIsCalledWithoutAnyRequest) {
  const auto guest = connect_without_rings();
  RawSplitRing ring(*guest, 0);
  ring.describe();
  ASSERT_TRUE(ring.set_call());
  ASSERT_TRUE(ring.set_kick());
  EXPECT_TRUE(ring.is_called()) << "at the start";
  ASSERT_TRUE(ring.enable());
  EXPECT_TRUE(ring.is_called()) << "when enabled";
}

TEST_F(RingSetupTest, Rule18ARingWithoutACallDescriptorIsServed) {
  {
    const auto guest = connect_without_rings();
    RawSplitRing ring(*guest, 0);
    ring.describe();
    ASSERT_TRUE(ring.set_kick());
    ASSERT_TRUE(ring.enable());
    ring.send_flush();
    EXPECT_TRUE(ring.is_answered()) << "without SET_VRING_CALL";
  }
  const auto guest = connect_without_rings();
  RawSplitRing ring(*guest, 0);
  ring.start();
  ASSERT_TRUE(guest->frontend().set_vring_call(0, std::nullopt));
  ring.send_flush();
  EXPECT_TRUE(ring.is_answered()) << "SET_VRING_CALL without a descriptor";
}

TEST_F(RingSetupTest, Rule19ABrokenRingSignalsVringErrAndOthersKeepRunning) {
  const auto guest = connect_without_rings();
  RawSplitRing bad(*guest, 0);
  RawSplitRing good(*guest, 1);
  bad.start();
  good.start();
  bad.publish_invalid_index();
  EXPECT_TRUE(bad.has_failed());
  for (int i = 0; i < 10; ++i) {
    good.send_flush();
    ASSERT_TRUE(good.is_answered());
  }
  EXPECT_TRUE(guest->frontend().get_vring_base(0)) << "GET_VRING_BASE still works";
}

}  // namespace
}  // namespace guestio::tests
