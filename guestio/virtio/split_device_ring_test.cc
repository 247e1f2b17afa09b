// SPDX-License-Identifier: MIT
#include "guestio/virtio/split_device_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <optional>
#include <vector>

#include "guestio/virtio/ring_for_test.h"

namespace guestio::virtio::split_device_test {
namespace {

constexpr std::uint16_t kNext = kDescriptorNext;
constexpr std::uint16_t kWrite = kDescriptorWrite;
constexpr std::uint16_t kIndirect = kDescriptorIndirect;
constexpr std::uint64_t kA = RingForTest::kData.raw();
constexpr std::uint64_t kB = kA + 0x1000;
constexpr std::uint64_t kC = kA + 0x2000;
constexpr Gpa kTable = RingForTest::kData.plus_unchecked(0x100000);
constexpr std::uint64_t kTableAt = kTable.raw();

mem::AddressRange range(std::uint64_t start, std::uint64_t length) {
  return mem::AddressRange::from_checked(Gpa(start), length);
}

/// A device ring of eight entries.
struct DeviceTest : testing::Test {
  static constexpr std::uint16_t kSize = 8;

  SplitDeviceRing make_queue(FeatureBits features = kFeatureIndirectDesc,
                             std::uint16_t next_avail = 0) {
    auto queue = SplitDeviceRing::create(ring.device(), features, next_avail);
    EXPECT_TRUE(queue.has_value());
    return std::move(*queue);
  }
  /// Pops an available chain.
  void pop_chain(SplitDeviceRing& queue) {
    const auto popped = queue.pop(ring.memory(), chain);
    ASSERT_TRUE(popped.has_value()) << popped.error().to_string();
    ASSERT_EQ(*popped, PopResult::kChain);
  }

  RingForTest ring{kSize};
  Chain chain;
};

TEST_F(DeviceTest, AnEmptyRingHasNothing) {
  auto queue = make_queue();
  EXPECT_EQ(queue.pop(ring.memory(), chain), PopResult::kNothing);
}

TEST_F(DeviceTest, AChainHasItsReadableExtentsFirstThenTheWritable) {
  auto queue = make_queue();
  ring.put(std::to_array<Descriptor>(
      {{kA, 16, kNext, 1}, {kB, 512, kNext | kWrite, 2}, {kC, 1, kWrite, 0}}));
  ring.make_available({0});
  pop_chain(queue);
  EXPECT_EQ(chain.head(), 0);
  EXPECT_FALSE(chain.is_malformed());
  ASSERT_EQ(chain.readable().size(), 1u);
  ASSERT_EQ(chain.writable().size(), 2u);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(chain.writable()[1], range(kC, 1));
  EXPECT_EQ(chain.readable_length(), 16u);
  EXPECT_EQ(chain.writable_length(), 513u);
  EXPECT_EQ(queue.next_avail(), 1);
  EXPECT_EQ(queue.in_flight(), 1u);
}

TEST_F(DeviceTest, Rule22APoppedChainDoesNotChange) {
  auto queue = make_queue();
  ring.put(std::to_array<Descriptor>({{kA, 16, kNext, 1}, {kB, 512, kWrite, 0}}));
  ring.make_available({0});
  pop_chain(queue);
  ring.put(std::to_array<Descriptor>({{kC, 99, kNext, 0}, {kC, 99, 0, 0}}));
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
}

TEST_F(DeviceTest, EmptyDescriptorsAreSkipped) {
  auto queue = make_queue();
  ring.put(std::to_array<Descriptor>({{kA, 0, kNext, 1},
                                      {kB, 512, kNext | kWrite, 2},
                                      {~std::uint64_t{0}, 0, kNext, 3},
                                      {kC, 1, kWrite, 0}}));
  ring.make_available({0});
  pop_chain(queue);
  ASSERT_FALSE(chain.is_malformed());
  EXPECT_TRUE(chain.readable().empty());
  EXPECT_EQ(chain.writable().size(), 2u);
}

TEST_F(DeviceTest, AChainOfEmptyDescriptorsHasNoExtents) {
  auto queue = make_queue();
  ring.put(std::to_array<Descriptor>({{kA, 0, 0, 0}}));
  ring.make_available({0});
  pop_chain(queue);
  EXPECT_FALSE(chain.is_malformed());
  EXPECT_TRUE(chain.extents().empty());
}

TEST_F(DeviceTest, AnIndirectTableReplacesItsDescriptor) {
  auto queue = make_queue();
  const std::array<Descriptor, 4> table = {{{kA, 16, kNext, 3},
                                            {kC, 1, kWrite, 0},
                                            {kA, 77, kIndirect, 9},  // not part of the chain
                                            {kB, 512, kNext | kWrite, 1}}};
  ring.put_table(kTable, table);
  // The device ignores WRITE in the descriptor of a table.
  ring.put(std::to_array<Descriptor>({{kTableAt, sizeof(table), kIndirect | kWrite, 0}}));
  ring.make_available({0});
  pop_chain(queue);
  ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
  ASSERT_EQ(chain.extents().size(), 3u);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(chain.writable()[1], range(kC, 1));
}

TEST_F(DeviceTest, AnIndirectTableMayLieAtAnyAddressAndOverTheEndOfARegion) {
  // The same bytes as two regions, with the boundary in a table.
  const Gpa middle = kTable.plus_unchecked(0x1000);
  const mem::RegionSpec whole = ring.memory().specs().front();
  const std::uint64_t below = middle.offset_from(whole.start);
  mem::RegionSpec first = whole;
  first.length = ByteCount(below);
  mem::RegionSpec second = whole;
  second.start = middle;
  second.offset += below;
  second.length = ByteCount(whole.length.raw() - below);
  const auto memory = mem::GuestMemory::create(std::array{first, second});
  ASSERT_TRUE(memory.has_value()) << memory.error().to_string();
  const std::array<Descriptor, 3> table = {
      {{kA, 16, kNext, 1}, {kB, 512, kNext | kWrite, 2}, {kC, 1, kWrite, 0}}};
  auto queue = make_queue();
  for (const std::uint64_t before : {0x1000U, 0xffcU, 4U, 16U, 24U, 32U, 47U}) {
    const Gpa at(middle.raw() - before);
    ring.put_table(at, table);
    ring.put(std::to_array<Descriptor>({{at.raw(), sizeof(table), kIndirect, 0}}));
    ring.make_available({0});
    ASSERT_EQ(queue.pop(*memory, chain), PopResult::kChain) << before;
    ASSERT_FALSE(chain.is_malformed()) << before << chain.fault().to_string();
    ASSERT_EQ(chain.extents().size(), 3u) << before;
    EXPECT_EQ(chain.readable()[0], range(kA, 16)) << before;
    EXPECT_EQ(chain.writable()[0], range(kB, 512)) << before;
    EXPECT_EQ(chain.writable()[1], range(kC, 1)) << before;
    ASSERT_TRUE(queue.push_used(0, 0));
    ASSERT_TRUE(queue.publish());
  }
}

TEST_F(DeviceTest, AnIndirectTableMayFollowDirectDescriptors) {
  auto queue = make_queue();
  const std::array<Descriptor, 1> table = {{{kB, 512, kWrite, 0}}};
  ring.put_table(kTable, table);
  ring.put(
      std::to_array<Descriptor>({{kA, 16, kNext, 1}, {kTableAt, sizeof(table), kIndirect, 0}}));
  ring.make_available({0});
  pop_chain(queue);
  ASSERT_FALSE(chain.is_malformed());
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
}

TEST_F(DeviceTest, AChainMayBeAsLongAsTheQueue) {
  auto queue = make_queue();
  for (std::uint16_t i = 0; i < kSize; ++i) {
    *ring.driver().descriptor(i) = {kA + i, 1, i + 1 < kSize ? kNext : std::uint16_t{0},
                                    static_cast<std::uint16_t>(i + 1)};
  }
  ring.make_available({0});
  pop_chain(queue);
  ASSERT_FALSE(chain.is_malformed());
  EXPECT_EQ(chain.readable().size(), kSize);
}

/// A table of readable entries in order, with `last` at the end.
std::vector<Descriptor> straight_table(std::uint16_t entries, const Descriptor& last) {
  std::vector<Descriptor> table;
  table.reserve(entries);
  for (std::uint16_t i = 1; i < entries; ++i) table.push_back({kA, 1, kNext, i});
  table.push_back(last);
  return table;
}

constexpr std::uint64_t kS = kA + 0x3000;  // the status byte
constexpr std::uint64_t kWrapping = ~std::uint64_t{0} - 14;
constexpr Descriptor kStatus{kS, 1, kWrite, 0};

TEST_F(DeviceTest, Rule23AnIndirectTableMayBeLongerThanTheQueue) {
  for (const std::uint16_t entries : std::to_array<std::uint16_t>({9, 128, 129, 1023, 1024})) {
    SCOPED_TRACE(entries);
    auto queue = make_queue(kFeatureIndirectDesc, *ring.driver().avail_index());
    ring.put_table(kTable, straight_table(entries, kStatus));
    ring.put(std::to_array<Descriptor>({{kTableAt, entries * 16U, kIndirect, 0}}));
    ring.make_available({0});
    pop_chain(queue);
    ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
    EXPECT_EQ(chain.readable().size(), entries - 1U);
    ASSERT_EQ(chain.writable().size(), 1U);
    EXPECT_EQ(chain.writable()[0], range(kS, 1));
    chain.clear();
  }
}

TEST(SplitDeviceRing, Rule23AQueueOfMoreEntriesThanTheLimitRaisesIt) {
  constexpr std::uint16_t kEntries = 2048;
  const RingForTest ring(kEntries);
  auto queue = *SplitDeviceRing::create(ring.device(), kFeatureIndirectDesc, 0);
  Chain chain;
  ring.put(straight_table(kEntries, kStatus));
  ring.make_available({0});
  ASSERT_EQ(queue.pop(ring.memory(), chain), PopResult::kChain);
  ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
  EXPECT_EQ(chain.extents().size(), kEntries);
}

struct MalformedCase {
  const char* name;
  std::vector<Descriptor> ring;
  std::vector<Descriptor> table = {};
  std::optional<std::uint64_t> last_writable = std::nullopt;
  FeatureBits features = kFeatureIndirectDesc;
};

/// Faults in the ring itself.
std::vector<MalformedCase> malformed_direct_chains() {
  return {
      {"a loop of one", {{kA, 16, kNext, 0}}},
      {"a writable loop of one", {{kA, 16, kNext | kWrite, 0}}},
      {"a loop of two", {{kA, 16, kNext, 1}, {kB, 16, kNext, 0}}},
      {"a loop of empty descriptors", {{kA, 0, kNext, 1}, {kB, 0, kNext, 0}}},
      {"a loop after another fault",
       {{kS, 1, kNext | kWrite, 1}, {kB, 16, kNext, 2}, {kA, 16, kNext | kWrite, 1}}},
      {"next outside the table", {{kA, 16, kNext | kWrite, 8}}},
      {"next far outside the table", {{kA, 16, kNext, 65535}}},
      {"next outside the table after another fault",
       {{kS, 1, kNext | kWrite, 1}, {kB, 16, kNext, 8}}},
      {"readable after writable", {{kA, 16, kNext | kWrite, 1}, {kB, 16, 0, 0}}, {}, kA + 15},
      {"readable between writable",
       {{kA, 512, kNext | kWrite, 1}, {kB, 16, kNext, 2}, {kS, 2, kWrite, 0}},
       {},
       kS + 1},
      {"readable after writable, and an empty end",
       {{kS, 1, kNext | kWrite, 1}, {kB, 16, kNext, 2}, {kC, 0, kWrite, 0}},
       {},
       kS},
      {"no writable extent", {{kWrapping, 16, 0, 0}}},
      {"a wrapping readable extent", {{kWrapping, 16, kNext, 1}, kStatus}, {}, kS},
      {"a wrapping writable extent", {{kA, 16, kNext, 1}, {kWrapping, 16, kWrite, 0}}},
      {"a wrapping last writable extent", {{kS, 1, kNext | kWrite, 1}, {kWrapping, 16, kWrite, 0}}},
      {"wrapping data", {{kA, 16, kNext, 1}, {kWrapping, 16, kNext | kWrite, 2}, kStatus}, {}, kS},
      {"more than 4 GiB to read", {{kA, 0xffffffff, kNext, 1}, {kB, 2, kNext, 2}, kStatus}, {}, kS},
      {"more than 4 GiB to write",
       {{kA, 16, kNext, 1}, {kB, 0xffffffff, kNext | kWrite, 2}, kStatus},
       {},
       kS},
      {"more than 4 GiB by its status",
       {{kA, 16, kNext, 1}, {kB, 0xfffffff0, kNext | kWrite, 2}, kStatus},
       {},
       kS},
  };
}

/// Faults of a table as a whole.
std::vector<MalformedCase> malformed_tables() {
  const std::vector<Descriptor> good = {{kA, 16, kNext, 1}, kStatus};
  return {
      {"indirect, not negotiated", {{kTableAt, 32, kIndirect, 0}}, good, std::nullopt, 0},
      {"indirect, not negotiated, after a status",
       {{kS, 1, kNext | kWrite, 1}, {kTableAt, 32, kIndirect, 0}},
       good,
       std::nullopt,
       0},
      {"indirect with next", {{kTableAt, 32, kIndirect | kNext, 1}, {kA, 1, 0, 0}}, good},
      {"indirect with next, and a status",
       {{kTableAt, 32, kIndirect | kNext, 1}, kStatus},
       good,
       kS},
      {"indirect with next after a status",
       {{kS, 1, kNext | kWrite, 1}, {kTableAt, 32, kIndirect | kNext, 2}, {kA, 1, 0, 0}},
       good},
      {"indirect with next to itself", {{kTableAt, 32, kIndirect | kNext, 0}}, good},
      {"an empty table", {{kTableAt, 0, kIndirect, 0}}},
      {"one and a half entries, the chain in the entire one",
       {{kTableAt, 40, kIndirect, 0}},
       good,
       kS},
      {"one and a half entries, the chain in the half", {{kTableAt, 24, kIndirect, 0}}, good},
      {"less than one entry", {{kTableAt, 15, kIndirect, 0}}, {kStatus}},
      {"a table outside memory", {{0x1000, 16, kIndirect, 0}}},
      {"a table outside memory after a status",
       {{kS, 1, kNext | kWrite, 1}, {0x1000, 16, kIndirect, 0}}},
      {"a table beyond the end of memory",
       {{RingForTest::kStart.raw() + RingForTest::kBytes - 16, 32, kIndirect, 0}}},
      {"a wrapping table", {{~std::uint64_t{0} - 15, 32, kIndirect, 0}}},
  };
}

/// Faults in a table.
std::vector<MalformedCase> malformed_chains_in_tables() {
  const auto table_of = [](std::uint32_t entries) {
    return std::vector<Descriptor>{{kTableAt, entries * 16, kIndirect, 0}};
  };
  auto looping = straight_table(1025, kStatus);
  looping.back() = {kS, 1, kNext | kWrite, 3};
  return {
      {"a table inside a table", table_of(2), {{kA, 16, kNext, 1}, {kTableAt, 16, kIndirect, 0}}},
      {"a table inside a table before a status",
       table_of(3),
       {{kA, 16, kNext, 1}, {kTableAt, 16, kIndirect | kNext, 2}, kStatus},
       kS},
      {"a table inside a table after a status",
       table_of(3),
       {{kS, 1, kNext | kWrite, 1}, {kTableAt, 16, kIndirect | kNext, 2}, {kA, 16, 0, 0}}},
      {"a table inside itself", table_of(1), {{kTableAt, 16, kIndirect, 0}}},
      {"a loop in a table", table_of(2), {{kA, 16, kNext, 1}, {kA, 16, kNext | kWrite, 0}}},
      {"next outside an indirect table",
       table_of(2),
       {{kA, 16, kNext, 2}, {kA, 16, 0, 0}, {kA, 16, 0, 0}}},
      {"readable after writable in a table",
       table_of(3),
       {{kA, 512, kNext | kWrite, 2}, kStatus, {kB, 16, kNext, 1}},
       kS},
      {"readable after writable in a looping table",
       table_of(2),
       {{kS, 1, kNext | kWrite, 1}, {kB, 16, kNext, 0}}},
      {"readable in a table after writable outside",
       {{kA, 16, kNext | kWrite, 1}, {kTableAt, 16, kIndirect, 0}},
       {{kB, 16, 0, 0}},
       kA + 15},
      {"a fault outside the table of the status",
       {{kA, 16, kNext | kWrite, 1}, {kB, 16, kNext, 2}, {kTableAt, 32, kIndirect, 0}},
       {{kB, 16, kNext, 1}, kStatus},
       kS},
      {"more than 4 GiB in a table",
       table_of(3),
       {{kA, 0xffffffff, kNext, 1}, {kB, 2, kNext, 2}, kStatus},
       kS},
      {"more than 4 GiB inside and outside a table",
       {{kA, 0xffffffff, kNext, 1}, {kTableAt, 32, kIndirect, 0}},
       {{kB, 512, kNext | kWrite, 1}, kStatus},
       kS},
      {"a table of too many descriptors", table_of(1025), straight_table(1025, kStatus), kS},
      {"direct and indirect too many descriptors",
       {{kA, 16, kNext, 1}, {kTableAt, 1024 * 16, kIndirect, 0}},
       straight_table(1024, kStatus),
       kS},
      {"a table of too many descriptors without a status", table_of(2000),
       straight_table(2000, {kA, 16, 0, 0})},
      {"a looping table of too many descriptors", table_of(1025), looping},
      {"a table longer than the longest walk", table_of(33000), straight_table(33000, kStatus)},
  };
}

void check_malformed(const std::vector<MalformedCase>& cases) {
  for (const MalformedCase& c : cases) {
    SCOPED_TRACE(c.name);
    const RingForTest ring(8);
    auto queue = *SplitDeviceRing::create(ring.device(), c.features, 0);
    ring.put(c.ring);
    *ring.driver().descriptor(7) = {kC, 512, 0, 0};
    ring.put_table(kTable, c.table);
    ring.make_available({0, 7});
    Chain chain;
    ASSERT_EQ(queue.pop(ring.memory(), chain), PopResult::kChain);
    EXPECT_TRUE(chain.is_malformed());
    EXPECT_EQ(chain.head(), 0);
    EXPECT_TRUE(chain.extents().empty());
    EXPECT_EQ(chain.readable_length() + chain.writable_length(), 0u);
    EXPECT_STRNE(chain.fault().what, "");
    ASSERT_EQ(chain.last_writable().has_value(), c.last_writable.has_value());
    if (c.last_writable) {
      EXPECT_EQ(chain.last_writable()->raw(), *c.last_writable);
    }
    // The ring continues.
    ASSERT_EQ(queue.pop(ring.memory(), chain), PopResult::kChain);
    EXPECT_FALSE(chain.is_malformed());
    EXPECT_EQ(chain.head(), 7);
    EXPECT_TRUE(queue.push_used(0, 0).has_value());
    EXPECT_TRUE(queue.push_used(7, 0).has_value());
    EXPECT_TRUE(queue.publish().has_value());
    EXPECT_EQ(*ring.driver().used_index(), 2);
  }
}

TEST(SplitDeviceRing, Rule23And27AMalformedChainHasItsLastWritableByteIfThatIsCertain) {
  check_malformed(malformed_direct_chains());
  check_malformed(malformed_tables());
  check_malformed(malformed_chains_in_tables());
}

TEST_F(DeviceTest, Rule27AResubmittedMalformedChainIsTheSame) {
  auto queue = make_queue();
  ring.put(std::to_array<Descriptor>({{kA, 512, kNext | kWrite, 1}, {kB, 16, kNext, 2}, kStatus}));
  ASSERT_EQ(queue.pop_resubmitted(0, ring.memory(), chain), PopResult::kChain);
  ASSERT_TRUE(chain.is_malformed());
  ASSERT_TRUE(chain.last_writable());
  EXPECT_EQ(chain.last_writable()->raw(), kS);
}

TEST_F(DeviceTest, Rule25MoreAvailableThanTheRingHoldsIsFatal) {
  auto queue = make_queue();
  *ring.driver().avail_index() = kSize + 1;
  EXPECT_EQ(queue.pop(ring.memory(), chain).error().kind, ErrorKind::kPeerFault);
}

TEST_F(DeviceTest, Rule25AnIndexMovingBackIsFatal) {
  auto queue = make_queue(0, 5);
  *ring.driver().avail_index() = 4;
  EXPECT_EQ(queue.pop(ring.memory(), chain).error().kind, ErrorKind::kPeerFault);
  EXPECT_EQ(queue.enable_notifications().error().kind, ErrorKind::kPeerFault);
}

TEST_F(DeviceTest, AFullRingIsFine) {
  auto queue = make_queue();
  ring.make_available({0, 1, 2, 3, 4, 5, 6, 7});
  for (std::uint16_t i = 0; i < kSize; ++i) pop_chain(queue);
  EXPECT_EQ(queue.pop(ring.memory(), chain), PopResult::kNothing);
}

TEST_F(DeviceTest, AHeadOutsideTheRingIsFatal) {
  auto queue = make_queue();
  ring.make_available({kSize});
  EXPECT_EQ(queue.pop(ring.memory(), chain).error().kind, ErrorKind::kPeerFault);
}

TEST_F(DeviceTest, MoreChainsInFlightThanTheRingHoldsIsFatal) {
  auto queue = make_queue();
  ring.make_available({0, 1, 2, 3, 4, 5, 6, 7});
  for (std::uint16_t i = 0; i < kSize; ++i) pop_chain(queue);
  ring.make_available({0});
  EXPECT_EQ(queue.pop(ring.memory(), chain).error().kind, ErrorKind::kPeerFault);
}

TEST_F(DeviceTest, LostRingMemoryIsAMemoryFaultInEachFunction) {
  auto queue = make_queue();
  ring.make_available({0, 1});
  pop_chain(queue);
  ring.truncate();
  EXPECT_EQ(queue.pop(ring.memory(), chain).error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.push_used(0, 0).error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.enable_notifications().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.suppress_notifications().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(SplitDeviceRing::create(ring.device(), 0, 0).error().kind, ErrorKind::kMemoryFault);
}

/// A ring of 1024 entries, and tables of long chains.
struct LongChainTest : testing::Test {
  static constexpr std::uint16_t kSize = 1024;

  /// Makes a chain of `extents` available, all in one indirect table.
  void add(std::uint16_t extents) {
    const Gpa table = RingForTest::kData.plus_unchecked(std::uint64_t{added} * 16 * kSize);
    std::vector<Descriptor> entries;
    entries.reserve(extents);
    for (std::uint16_t i = 0; i < extents; ++i) {
      entries.push_back({kA + i * kPageSize, i + 1u, i + 1 < extents ? kNext : std::uint16_t{0},
                         static_cast<std::uint16_t>(i + 1)});
    }
    ring.put_table(table, entries);
    *ring.driver().descriptor(added) = {
        table.raw(), static_cast<std::uint32_t>(extents * sizeof(Descriptor)), kIndirect, 0};
    ring.make_available({added++});
  }

  RingForTest ring{kSize};
  SplitDeviceRing queue = *SplitDeviceRing::create(ring.device(), kFeatureIndirectDesc, 0);
  std::uint16_t added = 0;
};

TEST_F(LongChainTest, ChainsOfAnyLengthKeepAllTheirExtents) {
  Chain chain;
  for (const auto extents :
       std::to_array<std::uint16_t>({1, 15, 16, 17, 127, 128, 129, 1023, 1024})) {
    SCOPED_TRACE(extents);
    add(extents);
    ASSERT_EQ(queue.pop(ring.memory(), chain), PopResult::kChain);
    ASSERT_EQ(chain.readable().size(), extents);
    for (std::uint16_t i = 0; i < extents; ++i) {
      ASSERT_EQ(chain.readable()[i], range(kA + i * kPageSize, i + 1u)) << i;
    }
  }
}

TEST_F(LongChainTest, Rule37ALongChainWithoutABlockStaysInTheRing) {
  std::deque<Chain> chains;
  for (std::size_t i = 0; i < ExtentArena::kHugeBlocks; ++i) {
    add(1024);
    ASSERT_EQ(queue.pop(ring.memory(), chains.emplace_back()), PopResult::kChain);
  }
  add(1024);
  Chain waiting;
  const std::uint16_t before = queue.next_avail();
  EXPECT_EQ(queue.pop(ring.memory(), waiting), PopResult::kNoRoom);
  EXPECT_EQ(queue.pop(ring.memory(), waiting), PopResult::kNoRoom) << "again";
  EXPECT_EQ(queue.next_avail(), before);
  EXPECT_TRUE(waiting.extents().empty());
  chains.front().clear();
  ASSERT_EQ(queue.pop(ring.memory(), waiting), PopResult::kChain);
  EXPECT_EQ(waiting.head(), added - 1);
  EXPECT_EQ(waiting.extents().size(), 1024u);
}

TEST_F(DeviceTest, UsedEntriesArePublishedAllAtOnce) {
  auto queue = make_queue();
  ring.make_available({3, 5});
  pop_chain(queue);
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(5, 513).has_value());
  ASSERT_TRUE(queue.push_used(3, 1).has_value());
  EXPECT_EQ(*ring.driver().used_index(), 0);
  EXPECT_EQ(queue.publish(), true);
  EXPECT_EQ(*ring.driver().used_index(), 2);
  EXPECT_EQ(ring.driver().used_element(0)->id, 5u);
  EXPECT_EQ(ring.driver().used_element(0)->length, 513u);
  EXPECT_EQ(ring.driver().used_element(1)->id, 3u);
  EXPECT_EQ(ring.driver().used_element(1)->length, 1u);
  EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_F(DeviceTest, Rule13TheUsedIndexContinuesFromTheRingsMemory) {
  *ring.driver().used_index() = 65535;
  *ring.driver().avail_index() = 7;
  auto queue = make_queue(0, 7);
  EXPECT_EQ(queue.used_index(), 65535);
  ring.make_available({2});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(2, 9).has_value());
  ASSERT_TRUE(queue.publish().has_value());
  EXPECT_EQ(ring.driver().used_element(65535)->id, 2u);
  EXPECT_EQ(*ring.driver().used_index(), 0);
  EXPECT_EQ(queue.next_avail(), 8);
}

TEST_F(DeviceTest, PublishingNothingNeedsNoCall) {
  auto queue = make_queue();
  queue.force_next_call();
  EXPECT_EQ(queue.publish(), false);
}

TEST_F(DeviceTest, WithoutEventIndexTheFlagSuppressesCalls) {
  auto queue = make_queue(0);
  ring.make_available({0, 1, 2});
  *ring.driver().avail_flags() = kAvailNoInterrupt;
  for (const bool forced : {false, true}) {
    pop_chain(queue);
    ASSERT_TRUE(queue.push_used(chain.head(), 0).has_value());
    if (forced) queue.force_next_call();
    EXPECT_EQ(queue.publish(), forced);
  }
  *ring.driver().avail_flags() = 0;
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(chain.head(), 0).has_value());
  EXPECT_EQ(queue.publish(), true);
}

TEST_F(DeviceTest, Rule26TheEventIndexIsComparedOverTheWholeBatch) {
  *ring.driver().used_index() = 65534;
  auto queue = make_queue(kFeatureEventIdx);
  ring.make_available({0, 1, 2, 3, 4});
  const auto push = [&](int count) {
    for (int i = 0; i < count; ++i) {
      pop_chain(queue);
      EXPECT_TRUE(queue.push_used(chain.head(), 0).has_value());
    }
  };
  *ring.driver().used_event() = 65535;
  push(1);
  EXPECT_EQ(queue.publish(), false) << "65534 to 65535 does not pass 65535";
  push(2);
  EXPECT_EQ(queue.publish(), true) << "65535 to 1 passes 65535";
  push(1);
  EXPECT_EQ(queue.publish(), false) << "the event is passed";
  *ring.driver().used_event() = 1;
  queue.force_next_call();
  push(1);
  EXPECT_EQ(queue.publish(), true) << "forced";
}

TEST_F(DeviceTest, EnablingNotificationsReportsAvailableChains) {
  auto queue = make_queue(kFeatureEventIdx);
  EXPECT_EQ(queue.enable_notifications(), false);
  EXPECT_EQ(*ring.driver().avail_event(), 0);
  ring.make_available({0, 1});
  EXPECT_EQ(queue.enable_notifications(), true);
  pop_chain(queue);
  EXPECT_EQ(queue.enable_notifications(), true) << "one chain is left";
  EXPECT_EQ(*ring.driver().avail_event(), 1);
  pop_chain(queue);
  EXPECT_EQ(queue.enable_notifications(), false);
  EXPECT_EQ(*ring.driver().avail_event(), 2);
}

TEST_F(DeviceTest, WithEventIndexSuppressionMovesAnEventAheadBack) {
  auto queue = make_queue(kFeatureEventIdx);
  EXPECT_EQ(queue.enable_notifications(), false);
  ASSERT_TRUE(queue.suppress_notifications().has_value());
  EXPECT_FALSE(needs_notification(*ring.driver().avail_event(), 0, 1))
      << "the next chain causes no kick";
  EXPECT_FALSE(needs_notification(*ring.driver().avail_event(), 0, kSize)) << "nor do all at once";
  EXPECT_EQ(queue.enable_notifications(), false);
  EXPECT_TRUE(needs_notification(*ring.driver().avail_event(), 0, 1));
  ring.make_available({0, 1});
  pop_chain(queue);
  const std::uint16_t passed = *ring.driver().avail_event();
  ASSERT_TRUE(queue.suppress_notifications().has_value());
  EXPECT_EQ(*ring.driver().avail_event(), passed) << "passed already";
}

TEST_F(DeviceTest, WithoutEventIndexTheFlagSuppressesKicks) {
  auto queue = make_queue(0);
  ASSERT_TRUE(queue.suppress_notifications().has_value());
  EXPECT_EQ(*ring.driver().used_flags(), kUsedNoNotify);
  EXPECT_EQ(queue.enable_notifications(), false);
  EXPECT_EQ(*ring.driver().used_flags(), 0);
}

TEST_F(DeviceTest, ContinuesInARemappedRing) {
  auto queue = make_queue();
  ring.make_available({0, 1});
  pop_chain(queue);
  queue.move_to(ring.driver());
  pop_chain(queue);
  EXPECT_EQ(chain.head(), 1);
  EXPECT_EQ(queue.pop(ring.memory(), chain), PopResult::kNothing);
}

using DeviceDeathTest = DeviceTest;

TEST_F(DeviceDeathTest, PushingAChainTwiceStopsTheProcess) {
  auto queue = make_queue();
  ring.make_available({0});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(0, 0).has_value());
  EXPECT_DEATH((void)queue.push_used(0, 0), "pushed once");
}

}  // namespace
}  // namespace guestio::virtio::split_device_test
