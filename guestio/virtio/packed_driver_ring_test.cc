// SPDX-License-Identifier: MIT
#include "guestio/virtio/packed_driver_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "guestio/virtio/ring_for_test.h"

namespace guestio::virtio::packed_driver_test {
namespace {

constexpr Gpa kA = RingForTest::kData;
constexpr Gpa kB = kA.plus_unchecked(0x1000);

constexpr std::array<DriverSegment, 2> kReadRequest = {
    {{kA, 16, Direction::kReadable}, {kB, 513, Direction::kWritable}}};
constexpr std::array<DriverSegment, 1> kOne = {{{kA, 1, Direction::kReadable}}};

/// A driver ring of five entries, with a manual device.
struct PackedDriverTest : testing::Test {
  PackedDriverRing make_queue(FeatureBits features = 0, PackedPosition first = {}) {
    device_used = first;
    auto queue = PackedDriverRing::create(ring.packed_driver(), features, first);
    EXPECT_TRUE(queue.has_value());
    return std::move(*queue);
  }
  [[nodiscard]] PackedDescriptor descriptor(std::uint16_t index) const {
    return *reinterpret_cast<const PackedDescriptor*>(ring.packed_device().address(index));
  }
  /// Returns a chain of `length` descriptors as a device would, valid or not.
  void return_as_device(std::uint16_t id, std::uint16_t length, std::uint32_t written = 7) {
    ASSERT_TRUE(ring.packed_device().try_store_tail(
        device_used.index, {.length = written, .id = id, .flags = device_used.used_flags()}));
    device_used = device_used.plus(length, 5);
  }
  void set_device_event(PackedEvent event) const {
    *ring.packed_device().device_event() = std::bit_cast<std::uint32_t>(event);
  }

  RingForTest ring{5};
  PackedPosition device_used;
};

TEST_F(PackedDriverTest, AChainIsVisibleOncePublished) {
  auto queue = make_queue();
  const auto id = queue.add(kReadRequest);
  ASSERT_TRUE(id.has_value());
  EXPECT_FALSE(PackedPosition{}.is_available(descriptor(0).flags));
  EXPECT_EQ(queue.publish(), true);
  const PackedDescriptor first = descriptor(0);
  EXPECT_EQ(first.address, kA.raw());
  EXPECT_EQ(first.length, 16u);
  EXPECT_EQ(first.flags, kPackedAvail | kDescriptorNext);
  const PackedDescriptor second = descriptor(1);
  EXPECT_EQ(second.address, kB.raw());
  EXPECT_EQ(second.length, 513u);
  EXPECT_EQ(second.flags, kPackedAvail | kDescriptorWrite);
  EXPECT_EQ(second.id, *id);
}

TEST_F(PackedDriverTest, AnIndirectChainTakesOneDescriptor) {
  auto queue = make_queue(kFeatureIndirectDesc);
  const Gpa table = kA.plus_unchecked(0x8000);
  const auto id = queue.add_indirect(
      kReadRequest,
      {.host = reinterpret_cast<Descriptor*>(ring.at(table)), .address = table, .capacity = 4});
  ASSERT_TRUE(id && queue.publish());
  EXPECT_EQ(queue.free_descriptors(), 4);
  EXPECT_EQ(descriptor(0).address, table.raw());
  EXPECT_EQ(descriptor(0).length, 32u);
  EXPECT_EQ(descriptor(0).flags, kPackedAvail | kDescriptorIndirect);
  const auto* const entries = reinterpret_cast<const PackedDescriptor*>(ring.at(table));
  EXPECT_EQ(entries[0].flags, 0) << "the order links them";
  EXPECT_EQ(entries[1].flags, kDescriptorWrite);
}

TEST_F(PackedDriverTest, AFullRingIsBusyAndNothingChanges) {
  auto queue = make_queue();
  ASSERT_TRUE(queue.add(kReadRequest) && queue.add(kReadRequest));
  EXPECT_EQ(queue.add(kReadRequest).error().kind, ErrorKind::kBusy);
  EXPECT_EQ(queue.free_descriptors(), 1);
  EXPECT_EQ(queue.in_flight(), 2);
  EXPECT_TRUE(queue.add(kOne).has_value());
}

TEST_F(PackedDriverTest, ReapedChainsFreeTheirDescriptorsOverManyLaps) {
  auto queue = make_queue(0, {.index = 4, .wrap = false});
  for (int round = 0; round < 20; ++round) {
    const auto first = queue.add(kReadRequest);
    const auto second = queue.add(kReadRequest);
    ASSERT_TRUE(first && second && queue.publish());
    return_as_device(*second, 2);
    return_as_device(*first, 2);
    EXPECT_EQ((*queue.reap())->head, *second);
    const auto used = *queue.reap();
    EXPECT_EQ(used->head, *first);
    EXPECT_EQ(used->written, 7u);
    EXPECT_FALSE((*queue.reap()).has_value());
    EXPECT_EQ(queue.free_descriptors(), 5);
    EXPECT_EQ(queue.in_flight(), 0);
  }
}

TEST_F(PackedDriverTest, InvalidReturnedChainsAreRefused) {
  struct Case {
    const char* name;
    std::vector<std::uint16_t> ids;
  };
  for (const Case& c : {Case{"outside the ring", {5}}, Case{"far outside", {65535}},
                        Case{"never added", {3}}, Case{"twice", {0, 0}}}) {
    SCOPED_TRACE(c.name);
    auto queue = make_queue();
    ASSERT_EQ(queue.add(kReadRequest), 0);
    ASSERT_EQ(queue.add(kReadRequest), 1);
    ASSERT_TRUE(queue.publish().has_value());
    for (const auto id : c.ids) return_as_device(id, 2);
    auto last = queue.reap();
    while (last && *last) last = queue.reap();
    ASSERT_FALSE(last.has_value());
    EXPECT_EQ(last.error().kind, ErrorKind::kPeerFault);
  }
}

TEST_F(PackedDriverTest, AnUnpublishedChainCannotBeReturned) {
  auto queue = make_queue();
  ASSERT_TRUE(queue.add(kOne) && queue.publish());
  ASSERT_EQ(queue.add(kOne), 1);
  return_as_device(1, 1);
  EXPECT_EQ(queue.reap().error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDriverTest, KicksUnlessTheDeviceSuppressesThem) {
  auto by_flag = make_queue(0);
  set_device_event({.position = 0, .flags = kPackedEventDisable});
  ASSERT_TRUE(by_flag.add(kOne).has_value());
  EXPECT_EQ(by_flag.publish(), false);
  EXPECT_EQ(by_flag.publish(), false) << "nothing new";

  auto by_event = make_queue(kFeatureEventIdx, {.index = 4, .wrap = true});
  const PackedPosition second{.index = 0, .wrap = false};
  set_device_event({.position = second.to_word(), .flags = kPackedEventDescriptor});
  ASSERT_TRUE(by_event.add(kOne).has_value());
  EXPECT_EQ(by_event.publish(), false);
  ASSERT_TRUE(by_event.add(kOne).has_value());
  EXPECT_EQ(by_event.publish(), true);
}

TEST_F(PackedDriverTest, EnablingCallsReportsReturnedChains) {
  auto queue = make_queue(kFeatureEventIdx);
  const auto id = queue.add(kReadRequest);
  ASSERT_TRUE(id && queue.publish());
  EXPECT_EQ(queue.enable_calls(), false);
  return_as_device(*id, 2);
  EXPECT_EQ(queue.enable_calls(), true);
  ASSERT_TRUE(queue.reap().has_value());
  EXPECT_EQ(queue.enable_calls(), false);
  const auto wish = std::bit_cast<PackedEvent>(*ring.packed_device().driver_event());
  EXPECT_EQ(wish.position, (PackedPosition{.index = 2, .wrap = true}).to_word());
  EXPECT_EQ(wish.flags, kPackedEventDescriptor);
  ASSERT_TRUE(queue.suppress_calls().has_value());
  EXPECT_EQ(std::bit_cast<PackedEvent>(*ring.packed_device().driver_event()).flags,
            kPackedEventDisable);
}

TEST_F(PackedDriverTest, LostRingMemoryIsAMemoryFault) {
  auto queue = make_queue();
  ASSERT_TRUE(queue.add(kReadRequest) && queue.publish());
  ring.truncate();
  EXPECT_EQ(queue.add(kReadRequest).error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.reap().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.enable_calls().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.suppress_calls().error().kind, ErrorKind::kMemoryFault);
}

}  // namespace
}  // namespace guestio::virtio::packed_driver_test
