// SPDX-License-Identifier: MIT
#include "guestio/virtio/split_driver_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "guestio/virtio/ring_for_test.h"

namespace guestio::virtio::split_driver_test {
namespace {

constexpr Gpa kA = RingForTest::kData;
constexpr Gpa kB = kA.plus_unchecked(0x1000);

constexpr std::array<DriverSegment, 2> kReadRequest = {
    {{kA, 16, Direction::kReadable}, {kB, 513, Direction::kWritable}}};

/// A driver ring of four entries, with a manual device.
struct DriverTest : testing::Test {
  SplitDriverRing make_queue(FeatureBits features = 0, std::uint16_t first_index = 0) {
    auto queue = SplitDriverRing::create(ring.driver(), features, first_index);
    EXPECT_TRUE(queue.has_value());
    return std::move(*queue);
  }
  /// Returns chains as a device would, valid or not.
  void return_as_device(std::initializer_list<std::uint32_t> ids, std::uint32_t length = 7) {
    const SplitRing device = ring.device();
    for (const std::uint32_t id : ids) {
      *device.used_element((*device.used_index())++) = {id, length};
    }
  }

  RingForTest ring{4};
};

TEST_F(DriverTest, AChainIsInTheTableAndVisibleOncePublished) {
  auto queue = make_queue();
  const auto head = queue.add(kReadRequest);
  ASSERT_TRUE(head.has_value());
  const SplitRing device = ring.device();
  EXPECT_EQ(*device.avail_index(), 0);
  EXPECT_EQ(queue.publish(), true);
  EXPECT_EQ(*device.avail_index(), 1);
  EXPECT_EQ(*device.avail_head(0), *head);
  const Descriptor first = *device.descriptor(*head);
  EXPECT_EQ(first.address, kA.raw());
  EXPECT_EQ(first.length, 16u);
  EXPECT_EQ(first.flags, kDescriptorNext);
  const Descriptor second = *device.descriptor(first.next);
  EXPECT_EQ(second.address, kB.raw());
  EXPECT_EQ(second.length, 513u);
  EXPECT_EQ(second.flags, kDescriptorWrite);
}

TEST_F(DriverTest, AnIndirectChainTakesOneDescriptor) {
  auto queue = make_queue(kFeatureIndirectDesc);
  const Gpa table = kA.plus_unchecked(0x8000);
  const DriverTable indirect{
      .host = reinterpret_cast<Descriptor*>(ring.at(table)), .address = table, .capacity = 4};
  const auto head = queue.add_indirect(kReadRequest, indirect);
  ASSERT_TRUE(head.has_value());
  EXPECT_EQ(queue.free_descriptors(), 3);
  const Descriptor whole = *ring.device().descriptor(*head);
  EXPECT_EQ(whole.address, table.raw());
  EXPECT_EQ(whole.length, 32u);
  EXPECT_EQ(whole.flags, kDescriptorIndirect);
  EXPECT_EQ(indirect.host[0].next, 1);
  EXPECT_EQ(indirect.host[1].flags, kDescriptorWrite);
}

TEST_F(DriverTest, AFullTableIsBusyAndNothingChanges) {
  auto queue = make_queue();
  ASSERT_TRUE(queue.add(kReadRequest).has_value());
  const std::array<DriverSegment, 3> three = {{{kA, 1, Direction::kReadable},
                                               {kA, 1, Direction::kReadable},
                                               {kB, 1, Direction::kWritable}}};
  EXPECT_EQ(queue.add(three).error().kind, ErrorKind::kBusy);
  EXPECT_EQ(queue.free_descriptors(), 2);
  EXPECT_EQ(queue.in_flight(), 1);
  EXPECT_TRUE(queue.add(kReadRequest).has_value());
}

TEST_F(DriverTest, ReapedChainsFreeTheirDescriptors) {
  auto queue = make_queue(0, 65535);
  for (int round = 0; round < 10; ++round) {
    const auto first = queue.add(kReadRequest);
    const auto second = queue.add(kReadRequest);
    ASSERT_TRUE(first && second && queue.publish());
    return_as_device({*second, *first});
    EXPECT_EQ((*queue.reap())->head, *second);
    const auto used = *queue.reap();
    EXPECT_EQ(used->head, *first);
    EXPECT_EQ(used->written, 7u);
    EXPECT_EQ(*queue.reap(), std::nullopt);
    EXPECT_EQ(queue.free_descriptors(), 4);
    EXPECT_EQ(queue.in_flight(), 0);
  }
}

TEST_F(DriverTest, InvalidReturnedChainsAreRefused) {
  struct Case {
    const char* name;
    std::vector<std::uint32_t> ids;
  };
  for (const Case& c :
       {Case{"outside the ring", {4}}, Case{"far outside", {0x10000}}, Case{"never added", {3}},
        Case{"not a head", {1}}, Case{"twice", {0, 0}}, Case{"more than in flight", {0, 2, 0}}}) {
    SCOPED_TRACE(c.name);
    auto queue = make_queue();
    ASSERT_EQ(queue.add(kReadRequest), 0);
    ASSERT_EQ(queue.add(kReadRequest), 2);
    ASSERT_TRUE(queue.publish().has_value());
    for (const auto id : c.ids) return_as_device({id});
    Result<std::optional<DriverUsed>> last = queue.reap();
    while (last && *last) last = queue.reap();
    ASSERT_FALSE(last.has_value());
    EXPECT_EQ(last.error().kind, ErrorKind::kPeerFault);
  }
}

TEST_F(DriverTest, AnUnpublishedChainCannotBeReturned) {
  auto queue = make_queue();
  ASSERT_EQ(queue.add(kReadRequest), 0);
  return_as_device({0});
  EXPECT_EQ(queue.reap().error().kind, ErrorKind::kPeerFault);
}

TEST_F(DriverTest, KicksUnlessTheDeviceSuppressesThem) {
  const std::array<DriverSegment, 1> one = {{{kA, 1, Direction::kReadable}}};
  auto by_flag = make_queue(0);
  *ring.device().used_flags() = kUsedNoNotify;
  ASSERT_TRUE(by_flag.add(one).has_value());
  EXPECT_EQ(by_flag.publish(), false);
  EXPECT_EQ(by_flag.publish(), false) << "nothing new";

  auto by_event = make_queue(kFeatureEventIdx, 65535);
  *ring.device().avail_event() = 0;
  ASSERT_TRUE(by_event.add(one).has_value());
  EXPECT_EQ(by_event.publish(), false);
  ASSERT_TRUE(by_event.add(one).has_value());
  EXPECT_EQ(by_event.publish(), true);
}

TEST_F(DriverTest, EnablingCallsReportsReturnedChains) {
  auto queue = make_queue(kFeatureEventIdx);
  const auto head = queue.add(kReadRequest);
  ASSERT_TRUE(head && queue.publish());
  EXPECT_EQ(queue.enable_calls(), false);
  return_as_device({*head});
  EXPECT_EQ(queue.enable_calls(), true);
  ASSERT_TRUE(queue.reap().has_value());
  EXPECT_EQ(queue.enable_calls(), false);
  EXPECT_EQ(*ring.device().used_event(), 1);

  auto by_flag = make_queue(0);
  ASSERT_TRUE(by_flag.suppress_calls().has_value());
  EXPECT_EQ(*ring.device().avail_flags(), kAvailNoInterrupt);
  EXPECT_EQ(by_flag.enable_calls(), false);
  EXPECT_EQ(*ring.device().avail_flags(), 0);
}

TEST_F(DriverTest, LostRingMemoryIsAMemoryFault) {
  auto queue = make_queue();
  ASSERT_TRUE(queue.add(kReadRequest).has_value());
  ring.truncate();
  EXPECT_EQ(queue.add(kReadRequest).error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.publish().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.reap().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.enable_calls().error().kind, ErrorKind::kMemoryFault);
}

}  // namespace
}  // namespace guestio::virtio::split_driver_test
