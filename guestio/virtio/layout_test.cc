// SPDX-License-Identifier: MIT
#include "guestio/virtio/layout.h"

#include <gtest/gtest.h>

#include <bit>

#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/split_ring.h"

namespace guestio::virtio {
namespace {

struct EventCase {
  std::uint16_t event;
  std::uint16_t before;
  std::uint16_t after;
  bool passed;
};

constexpr EventCase kEventCases[] = {
    {.event = 0, .before = 0, .after = 1, .passed = true},
    {.event = 1, .before = 0, .after = 1, .passed = false},
    {.event = 5, .before = 5, .after = 6, .passed = true},
    {.event = 4, .before = 5, .after = 6, .passed = false},
    {.event = 7, .before = 5, .after = 8, .passed = true},
    {.event = 5, .before = 5, .after = 5, .passed = false},
    {.event = 65535, .before = 65535, .after = 0, .passed = true},
    {.event = 65535, .before = 0, .after = 1, .passed = false},
    {.event = 1, .before = 65530, .after = 2, .passed = true},
    {.event = 2, .before = 65530, .after = 2, .passed = false},
    {.event = 65529, .before = 65530, .after = 2, .passed = false},
};

TEST(EventIndex, IsPassedModuloTwoToTheSixteenOverTheWholeBatch) {
  for (const EventCase& c : kEventCases) {
    EXPECT_EQ(needs_notification(c.event, c.before, c.after), c.passed)
        << c.event << ": " << c.before << " to " << c.after;
  }
}

TEST(QueueSize, IsAPowerOfTwoUpToItsLimit) {
  for (const std::uint32_t good : {1u, 2u, 128u, 32768u}) EXPECT_TRUE(is_split_queue_size(good));
  for (const std::uint32_t bad : {0u, 3u, 127u, 65536u, 0x80000000u}) {
    EXPECT_FALSE(is_split_queue_size(bad)) << bad;
  }
}

TEST(RingParts, HaveTheSizesOfTheSpecification) {
  EXPECT_EQ(descriptor_table_bytes(256), 16u * 256);
  EXPECT_EQ(avail_ring_bytes(256), 6u + 2 * 256);
  EXPECT_EQ(used_ring_bytes(256), 6u + 8 * 256);
}

TEST(SplitRing, EndsItsPartsWithTheEventWords) {
  alignas(16) std::array<std::byte, 4096> bytes{};
  std::byte* const avail = bytes.data() + 1024;
  std::byte* const used = bytes.data() + 2048;
  const auto ring = SplitRing::at(bytes.data(), avail, used, 8);
  ASSERT_TRUE(ring.has_value());
  const auto as_bytes = [](auto* pointer) { return reinterpret_cast<std::byte*>(pointer); };
  EXPECT_EQ(as_bytes(ring->descriptor(7)), bytes.data() + 112);
  EXPECT_EQ(as_bytes(ring->avail_index()), avail + 2);
  EXPECT_EQ(as_bytes(ring->avail_head(9)), avail + 4 + 2);
  EXPECT_EQ(as_bytes(ring->used_event()) + 2, avail + avail_ring_bytes(8));
  EXPECT_EQ(as_bytes(ring->used_index()), used + 2);
  EXPECT_EQ(as_bytes(ring->used_element(9)), used + 4 + 8);
  EXPECT_EQ(as_bytes(ring->avail_event()) + 2, used + used_ring_bytes(8));
}

TEST(SplitRing, RefusesInvalidSizesAndMisalignedParts) {
  alignas(16) std::array<std::byte, 64> bytes{};
  std::byte* const good = bytes.data();
  EXPECT_EQ(SplitRing::at(good, good, good, 3).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(SplitRing::at(good, good, good, 65536).error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(SplitRing::at(good + 8, good, good, 1).error().kind, ErrorKind::kMisaligned);
  EXPECT_EQ(SplitRing::at(good, good + 1, good, 1).error().kind, ErrorKind::kMisaligned);
  EXPECT_EQ(SplitRing::at(good, good, good + 2, 1).error().kind, ErrorKind::kMisaligned);
}

TEST(FeatureNames, AreInOrderAndOneBitEach) {
  FeatureBits last = 0;
  for (const FeatureName& feature : kRingFeatureNames) {
    EXPECT_TRUE(std::has_single_bit(feature.bit)) << feature.name;
    EXPECT_GT(feature.bit, last) << feature.name;
    last = feature.bit;
  }
  last = 0;
  for (const FeatureName& feature : blk::kFeatureNames) {
    EXPECT_TRUE(std::has_single_bit(feature.bit)) << feature.name;
    EXPECT_GT(feature.bit, last) << feature.name;
    last = feature.bit;
  }
}

}  // namespace
}  // namespace guestio::virtio
