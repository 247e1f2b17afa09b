// SPDX-License-Identifier: MIT
#include "guestio/virtio/packed_device_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <optional>
#include <vector>

#include "guestio/virtio/ring_for_test.h"

namespace guestio::virtio::packed_device_test {
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

/// A manual driver, and its memory shared with a device.
class ManualDriver {
 public:
  explicit ManualDriver(std::uint16_t size, PackedPosition first = {}) : ring(size), next(first) {}

  /// Makes descriptors available at the next position. Sets their ownership flags.
  void add(std::initializer_list<PackedDescriptor> descriptors) {
    for (PackedDescriptor descriptor : descriptors) {
      descriptor.flags = static_cast<std::uint16_t>(descriptor.flags | next.avail_flags());
      *at(next.index) = descriptor;
      next = next.plus(1, ring.packed_driver().size());
    }
  }
  [[nodiscard]] PackedDescriptor* at(std::uint16_t index) const {
    return reinterpret_cast<PackedDescriptor*>(ring.packed_driver().address(index));
  }
  void put_table(std::span<const PackedDescriptor> entries) const {
    std::ranges::copy(std::as_bytes(entries), ring.at(kTable));
  }
  void set_event(PackedEvent event) const {
    *ring.packed_driver().driver_event() = std::bit_cast<std::uint32_t>(event);
  }
  [[nodiscard]] PackedEvent device_event() const {
    return std::bit_cast<PackedEvent>(*ring.packed_driver().device_event());
  }

  RingForTest ring;
  PackedPosition next;
};

/// A device ring of eight entries.
struct PackedDeviceTest : testing::Test {
  static constexpr std::uint16_t kSize = 8;

  PackedDeviceRing make_queue(FeatureBits features = kFeatureIndirectDesc) {
    auto queue =
        PackedDeviceRing::create(driver.ring.packed_device(), features, {driver.next, driver.next});
    EXPECT_TRUE(queue.has_value());
    return std::move(*queue);
  }
  /// Pops an available chain.
  void pop_chain(PackedDeviceRing& queue) {
    const auto popped = queue.pop(driver.ring.memory(), chain);
    ASSERT_TRUE(popped.has_value()) << popped.error().to_string();
    ASSERT_EQ(*popped, PopResult::kChain);
  }
  Result<PopResult> pop(PackedDeviceRing& queue) { return queue.pop(driver.ring.memory(), chain); }

  ManualDriver driver{kSize};
  Chain chain;
};

TEST_F(PackedDeviceTest, AnEmptyRingHasNothing) {
  auto queue = make_queue();
  EXPECT_EQ(pop(queue), PopResult::kNothing);
}

TEST_F(PackedDeviceTest, AChainHasItsReadableExtentsFirstThenTheWritable) {
  auto queue = make_queue();
  // Only the id of the last descriptor counts.
  driver.add({{kA, 16, 99, kNext}, {kB, 512, 98, kNext | kWrite}, {kC, 1, 5, kWrite}});
  pop_chain(queue);
  EXPECT_EQ(chain.head(), 5);
  EXPECT_FALSE(chain.is_malformed());
  ASSERT_EQ(chain.readable().size(), 1u);
  ASSERT_EQ(chain.writable().size(), 2u);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(chain.writable()[1], range(kC, 1));
  EXPECT_EQ(queue.base().avail, (PackedPosition{.index = 3, .wrap = true}));
  EXPECT_EQ(queue.in_flight(), 1u);
}

TEST_F(PackedDeviceTest, Rule22APoppedChainDoesNotChange) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, kNext}, {kB, 512, 0, kWrite}});
  pop_chain(queue);
  *driver.at(0) = *driver.at(1) = {kC, 99, 7, 0};
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(queue.fetched()[1].length, 512u);
}

TEST_F(PackedDeviceTest, AnIndirectTableIsReadInTableOrder) {
  auto queue = make_queue();
  // Ids and links in a table do not count.
  const std::array<PackedDescriptor, 3> table = {
      {{kA, 16, 77, kNext}, {kB, 512, 78, kWrite}, {kC, 1, 79, kWrite}}};
  driver.put_table(table);
  // The device ignores WRITE in the descriptor of a table.
  driver.add({{kTableAt, sizeof(table), 3, kIndirect | kWrite}});
  pop_chain(queue);
  ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
  EXPECT_EQ(chain.head(), 3);
  ASSERT_EQ(chain.extents().size(), 3u);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(chain.writable()[1], range(kC, 1));
}

TEST_F(PackedDeviceTest, Rule24TheWrapCounterFlipsWhenOneChainFillsTheRing) {
  auto queue = make_queue();
  for (std::uint16_t lap = 0; lap < 4; ++lap) {
    SCOPED_TRACE(lap);
    const bool wrap = lap % 2 != 0;  // after the flip
    for (std::uint16_t i = 0; i < kSize; ++i) {
      driver.add({{kA + i, 1, lap, i + 1 < kSize ? kNext : std::uint16_t{0}}});
    }
    pop_chain(queue);
    EXPECT_EQ(chain.readable().size(), kSize);
    EXPECT_EQ(queue.base().avail, (PackedPosition{.index = 0, .wrap = wrap}));
    EXPECT_EQ(pop(queue), PopResult::kNothing);
    ASSERT_TRUE(queue.push_used(lap, 0).has_value());
    ASSERT_TRUE(queue.publish().has_value());
    EXPECT_EQ(queue.base().used, (PackedPosition{.index = 0, .wrap = wrap}));
  }
}

TEST_F(PackedDeviceTest, Rule24ABufferIdOutsideTheRingIsFatal) {
  auto queue = make_queue();
  driver.add({{kA, 16, kSize, 0}});
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule24ABufferIdInFlightIsFatal) {
  auto queue = make_queue();
  driver.add({{kA, 16, 2, 0}, {kB, 16, 2, 0}});
  pop_chain(queue);
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule24AReturnedBufferIdIsFree) {
  auto queue = make_queue();
  for (int round = 0; round < 20; ++round) {
    driver.add({{kA, 16, 2, 0}});
    pop_chain(queue);
    ASSERT_TRUE(queue.push_used(2, 0).has_value());
    ASSERT_TRUE(queue.publish().has_value());
  }
}

TEST_F(PackedDeviceTest, Rule23And25AChainWithoutAnEndIsFatal) {
  auto queue = make_queue();
  for (std::uint16_t i = 0; i < kSize; ++i) driver.add({{kA, 1, 0, kNext}});
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule25AChainOverlappingOneInFlightIsFatal) {
  auto queue = make_queue();
  driver.add({{kA, 1, 0, 0}});
  pop_chain(queue);
  for (std::uint16_t i = 1; i < kSize; ++i) driver.add({{kA, 1, 1, kNext}});
  driver.add({{kA, 1, 1, 0}});
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule25MoreAvailableThanTheRingHoldsIsFatal) {
  auto queue = make_queue();
  for (std::uint16_t i = 0; i < kSize; ++i) driver.add({{kA, 1, i, 0}});
  for (std::uint16_t i = 0; i < kSize; ++i) pop_chain(queue);
  driver.add({{kA, 1, 0, 0}});
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kPeerFault);
}

constexpr std::uint64_t kS = kA + 0x3000;  // the status byte
constexpr std::uint64_t kWrapping = ~std::uint64_t{0} - 14;

/// An entry of a table, or the last of a chain with id 4.
constexpr PackedDescriptor kStatus{kS, 1, 4, kWrite};

std::vector<PackedDescriptor> table_of(std::size_t entries, const PackedDescriptor& last) {
  std::vector<PackedDescriptor> table(entries, {kA, 1, 0, 0});
  table.back() = last;
  return table;
}

TEST_F(PackedDeviceTest, Rule23AnIndirectTableMayBeLongerThanTheQueue) {
  for (const std::uint32_t entries : {9U, 128U, 129U, 1023U, 1024U}) {
    SCOPED_TRACE(entries);
    auto queue = make_queue();
    driver.put_table(table_of(entries, kStatus));
    driver.add({{kTableAt, entries * 16, 4, kIndirect}});
    pop_chain(queue);
    ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
    EXPECT_EQ(chain.readable().size(), entries - 1U);
    ASSERT_EQ(chain.writable().size(), 1U);
    EXPECT_EQ(chain.writable()[0], range(kS, 1));
    chain.clear();
  }
}

TEST(PackedDeviceRing, Rule23AQueueOfMoreEntriesThanTheLimitRaisesIt) {
  constexpr std::uint16_t kEntries = 2000;
  ManualDriver driver(kEntries);
  auto queue = *PackedDeviceRing::create(driver.ring.packed_device(), kFeatureIndirectDesc, {});
  driver.put_table(table_of(kEntries, kStatus));
  driver.add({{kTableAt, kEntries * 16, 4, kIndirect}});
  Chain chain;
  ASSERT_EQ(queue.pop(driver.ring.memory(), chain), PopResult::kChain);
  ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
  EXPECT_EQ(chain.extents().size(), kEntries);
}

struct MalformedCase {
  const char* name;
  std::vector<PackedDescriptor> ring;
  std::vector<PackedDescriptor> table = {};
  std::optional<std::uint64_t> last_writable = std::nullopt;
  FeatureBits features = kFeatureIndirectDesc;
};

/// Faults in the ring itself.
std::vector<MalformedCase> malformed_direct_chains() {
  const std::vector<PackedDescriptor> good = {{kA, 16, 0, 0}, kStatus};
  return {
      {"readable after writable", {{kA, 16, 0, kNext | kWrite}, {kB, 16, 4, 0}}, {}, kA + 15},
      {"readable between writable",
       {{kA, 512, 0, kNext | kWrite}, {kB, 16, 0, kNext}, {kS, 2, 4, kWrite}},
       {},
       kS + 1},
      {"readable after writable, and an empty end",
       {{kS, 1, 0, kNext | kWrite}, {kB, 16, 0, kNext}, {kC, 0, 4, kWrite}},
       {},
       kS},
      {"no writable extent", {{kWrapping, 16, 4, 0}}},
      {"a wrapping readable extent", {{kWrapping, 16, 0, kNext}, kStatus}, {}, kS},
      {"a wrapping writable extent", {{kA, 16, 0, kNext}, {kWrapping, 16, 4, kWrite}}},
      {"a wrapping last writable extent", {{kS, 1, 0, kNext | kWrite}, {kWrapping, 16, 4, kWrite}}},
      {"more than 4 GiB to read", {{kA, 0xffffffff, 0, kNext}, {kB, 2, 0, kNext}, kStatus}, {}, kS},
      {"more than 4 GiB to write",
       {{kA, 16, 0, kNext}, {kB, 0xffffffff, 0, kNext | kWrite}, kStatus},
       {},
       kS},
      {"more than 4 GiB by its status",
       {{kA, 16, 0, kNext}, {kB, 0xfffffff0, 0, kNext | kWrite}, kStatus},
       {},
       kS},
      {"indirect with next", {{kTableAt, 32, 0, kIndirect | kNext}, {kA, 1, 4, 0}}, good},
      {"indirect with next, and a status",
       {{kTableAt, 32, 0, kIndirect | kNext}, kStatus},
       good,
       kS},
      {"indirect after a direct one", {{kA, 16, 0, kNext}, {kTableAt, 32, 4, kIndirect}}, good},
      {"indirect after a status", {{kS, 1, 0, kNext | kWrite}, {kTableAt, 32, 4, kIndirect}}, good},
  };
}

/// Faults of a table, and in a table.
std::vector<MalformedCase> malformed_tables() {
  const std::vector<PackedDescriptor> good = {{kA, 16, 0, 0}, kStatus};
  const auto table = [](std::uint32_t entries) {
    return std::vector<PackedDescriptor>{{kTableAt, entries * 16, 4, kIndirect}};
  };
  return {
      {"indirect, not negotiated", table(2), good, std::nullopt, 0},
      {"an empty table", {{kTableAt, 0, 4, kIndirect}}},
      {"one and a half entries", {{kTableAt, 40, 4, kIndirect}}, good},
      {"less than one entry", {{kTableAt, 15, 4, kIndirect}}, {kStatus}},
      {"a table outside memory", {{0x1000, 16, 4, kIndirect}}},
      {"a table beyond the end of memory",
       {{RingForTest::kStart.raw() + RingForTest::kBytes - 16, 32, 4, kIndirect}}},
      {"a wrapping table", {{~std::uint64_t{0} - 15, 32, 4, kIndirect}}},
      {"a table inside a table", table(2), {{kA, 16, 0, 0}, {kTableAt, 16, 0, kIndirect}}},
      {"a table inside a table before a status",
       table(3),
       {{kA, 16, 0, 0}, {kTableAt, 16, 0, kIndirect}, kStatus},
       kS},
      {"a table inside a table after a status",
       table(3),
       {{kA, 16, 0, 0}, kStatus, {kTableAt, 16, 0, kIndirect}}},
      {"readable after writable in a table",
       table(3),
       {{kA, 512, 0, kWrite}, {kB, 16, 0, 0}, kStatus},
       kS},
      {"more than 4 GiB in a table",
       table(3),
       {{kA, 0xffffffff, 0, 0}, {kB, 2, 0, 0}, kStatus},
       kS},
      {"a fault long before the end of a table", table(100),
       [] {
         auto entries = table_of(100, kStatus);
         entries[2].flags = kWrite;
         return entries;
       }(),
       kS},
      {"a table of too many descriptors", table(1025), table_of(1025, kStatus), kS},
      {"a table of too many descriptors without a status", table(1025),
       table_of(1025, {kA, 16, 0, 0})},
      {"a table of too many descriptors with a table at its end", table(1025),
       table_of(1025, {kTableAt, 16, 0, kIndirect | kWrite})},
      {"a table of 256 MiB", {{kTableAt, 0xfffffff0, 4, kIndirect}}, good},
  };
}

void check_malformed(const std::vector<MalformedCase>& cases) {
  for (const MalformedCase& c : cases) {
    SCOPED_TRACE(c.name);
    ManualDriver driver(8);
    auto queue = *PackedDeviceRing::create(driver.ring.packed_device(), c.features, {});
    for (const PackedDescriptor& descriptor : c.ring) driver.add({descriptor});
    driver.put_table(c.table);
    driver.add({{kC, 512, 7, 0}});
    Chain chain;
    ASSERT_EQ(queue.pop(driver.ring.memory(), chain), PopResult::kChain);
    EXPECT_TRUE(chain.is_malformed());
    EXPECT_EQ(chain.head(), 4);
    EXPECT_TRUE(chain.extents().empty());
    EXPECT_STRNE(chain.fault().what, "");
    ASSERT_EQ(chain.last_writable().has_value(), c.last_writable.has_value());
    if (c.last_writable) {
      EXPECT_EQ(chain.last_writable()->raw(), *c.last_writable);
    }
    // The ring continues.
    ASSERT_EQ(queue.pop(driver.ring.memory(), chain), PopResult::kChain);
    EXPECT_FALSE(chain.is_malformed());
    EXPECT_EQ(chain.head(), 7);
    EXPECT_TRUE(queue.push_used(4, 0).has_value());
    EXPECT_TRUE(queue.push_used(7, 0).has_value());
    EXPECT_TRUE(queue.publish().has_value());
    EXPECT_EQ(queue.base().used, queue.base().avail);
  }
}

TEST(PackedDeviceRing, Rule23And27AMalformedChainHasItsLastWritableByteIfThatIsCertain) {
  check_malformed(malformed_direct_chains());
  check_malformed(malformed_tables());
}

TEST_F(PackedDeviceTest, Rule27AResubmittedMalformedChainIsTheSame) {
  driver.next = {.index = 3, .wrap = true};
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  const std::array<PackedDescriptor, 3> fetched = {
      {{kA, 512, 0, kNext | kWrite}, {kB, 16, 0, kNext}, kStatus}};
  ASSERT_EQ(queue.pop_resubmitted(fetched, driver.ring.memory(), chain), PopResult::kChain);
  ASSERT_TRUE(chain.is_malformed());
  ASSERT_TRUE(chain.last_writable());
  EXPECT_EQ(chain.last_writable()->raw(), kS);
}

TEST_F(PackedDeviceTest, UsedDescriptorsArePublishedAllAtOnce) {
  auto queue = make_queue();
  driver.add({{kA, 16, 3, kNext}, {kB, 16, 3, kWrite}, {kC, 16, 5, kWrite}});
  pop_chain(queue);
  pop_chain(queue);
  const PackedDescriptor before = *driver.at(0);
  ASSERT_TRUE(queue.push_used(5, 513).has_value());
  ASSERT_TRUE(queue.push_used(3, 0).has_value());
  EXPECT_EQ(driver.at(0)->flags, before.flags);
  EXPECT_EQ(queue.publish(), true);
  EXPECT_EQ(driver.at(0)->id, 5);
  EXPECT_EQ(driver.at(0)->length, 513u);
  EXPECT_EQ(driver.at(0)->flags, kPackedAvail | kPackedUsed | kDescriptorWrite);
  // The first used descriptor takes as many entries as its chain.
  EXPECT_EQ(driver.at(1)->id, 3);
  EXPECT_EQ(driver.at(1)->flags, kPackedAvail | kPackedUsed);
  EXPECT_EQ(queue.base().used, (PackedPosition{.index = 3, .wrap = true}));
  EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_F(PackedDeviceTest, Rule13TheBaseCarriesBothPositionsWithTheirWrapCounters) {
  const PackedBase base{.avail = {.index = 1, .wrap = false}, .used = {.index = 6, .wrap = true}};
  EXPECT_EQ(PackedBase::from_word(base.to_word()).to_word(), base.to_word());
  EXPECT_EQ(base.to_word(), 0x8006'0001u);
  auto queue = *PackedDeviceRing::create(driver.ring.packed_device(), 0, base);
  driver.next = base.avail;
  driver.add({{kA, 16, 3, 0}});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(3, 9).has_value());
  ASSERT_TRUE(queue.publish().has_value());
  EXPECT_EQ(driver.at(6)->id, 3);
  EXPECT_EQ(queue.base().avail, (PackedPosition{.index = 2, .wrap = false}));
  EXPECT_EQ(queue.base().used, (PackedPosition{.index = 7, .wrap = true}));
}

TEST_F(PackedDeviceTest, Rule20PositionsOutsideTheRingAreRefused) {
  const PackedPosition zero{.index = 0, .wrap = true};
  for (const PackedBase& base :
       {PackedBase{{.index = 8, .wrap = true}, zero}, PackedBase{zero, {.index = 8, .wrap = true}},
        PackedBase{zero, {.index = 1, .wrap = true}},
        PackedBase{{.index = 1, .wrap = false}, zero}}) {
    SCOPED_TRACE(base.to_word());
    EXPECT_EQ(PackedDeviceRing::create(driver.ring.packed_device(), 0, base).error().kind,
              ErrorKind::kPeerFault);
  }
}

TEST_F(PackedDeviceTest, WithoutEventIndexTheFlagSuppressesCalls) {
  auto queue = make_queue(0);
  driver.set_event({.position = 0, .flags = kPackedEventDisable});
  for (const bool forced : {false, true}) {
    driver.add({{kA, 16, 0, 0}});
    pop_chain(queue);
    ASSERT_TRUE(queue.push_used(0, 0).has_value());
    if (forced) queue.force_next_call();
    EXPECT_EQ(queue.publish(), forced);
  }
  driver.set_event({.position = 77, .flags = kPackedEventEnable});
  driver.add({{kA, 16, 0, 0}});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(0, 0).has_value());
  EXPECT_EQ(queue.publish(), true);
  EXPECT_EQ(queue.publish(), false) << "nothing new";
}

TEST_F(PackedDeviceTest, Rule26ACallIsNeededWhenTheBatchPassesTheEventInAnyLap) {
  struct Case {
    PackedPosition event;
    bool is_needed;
  };
  // The batch goes from entry 6 of one lap to entry 2 of the next.
  for (const Case& c :
       {Case{{.index = 5, .wrap = true}, false}, Case{{.index = 6, .wrap = true}, true},
        Case{{.index = 7, .wrap = true}, true}, Case{{.index = 0, .wrap = false}, true},
        Case{{.index = 1, .wrap = false}, true}, Case{{.index = 2, .wrap = false}, false},
        Case{{.index = 0, .wrap = true}, false}}) {
    SCOPED_TRACE(c.event.to_word());
    driver.next = {.index = 6, .wrap = true};
    auto queue = make_queue(kFeatureEventIdx);
    driver.set_event({.position = c.event.to_word(), .flags = kPackedEventDescriptor});
    for (std::uint16_t id = 0; id < 4; ++id) {
      driver.add({{kA, 16, id, 0}});
      pop_chain(queue);
      ASSERT_TRUE(queue.push_used(id, 0).has_value());
    }
    EXPECT_EQ(queue.publish(), c.is_needed);
  }
}

TEST_F(PackedDeviceTest, Rule26EnablingNotificationsReportsAvailableChains) {
  auto queue = make_queue(kFeatureEventIdx);
  EXPECT_EQ(queue.enable_notifications(), false);
  EXPECT_EQ(driver.device_event().flags, kPackedEventDescriptor);
  EXPECT_EQ(driver.device_event().position, 0x8000);
  driver.add({{kA, 16, 0, 0}});
  EXPECT_EQ(queue.enable_notifications(), true);
  ASSERT_TRUE(queue.suppress_notifications().has_value());
  EXPECT_EQ(driver.device_event().flags, kPackedEventDisable);
  auto by_flag = make_queue(0);
  ASSERT_TRUE(by_flag.enable_notifications().has_value());
  EXPECT_EQ(driver.device_event().flags, kPackedEventEnable);
}

TEST_F(PackedDeviceTest, LostRingMemoryIsAMemoryFaultInEachFunction) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, 0}, {kA, 16, 1, 0}});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(0, 0).has_value());
  driver.ring.truncate();
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.publish().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.enable_notifications().error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(queue.suppress_notifications().error().kind, ErrorKind::kMemoryFault);
}

TEST_F(PackedDeviceTest, ContinuesInARemappedRing) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, 0}, {kA, 16, 1, 0}});
  pop_chain(queue);
  queue.move_to(driver.ring.packed_driver());
  pop_chain(queue);
  EXPECT_EQ(chain.head(), 1);
}

TEST(PackedDeviceRing, Rule37ALongChainWithoutABlockStaysInTheRing) {
  constexpr std::uint16_t kSize = 512;
  ManualDriver driver(kSize);
  auto queue = *PackedDeviceRing::create(driver.ring.packed_device(), kFeatureIndirectDesc, {});
  driver.put_table(std::vector<PackedDescriptor>(kSize, {kA, 1, 0, 0}));
  std::deque<Chain> chains;
  for (std::uint16_t id = 0; id < ExtentArena::kHugeBlocks; ++id) {
    driver.add({{kTableAt, kSize * 16, id, kIndirect}});
    ASSERT_EQ(queue.pop(driver.ring.memory(), chains.emplace_back()), PopResult::kChain);
  }
  driver.add({{kTableAt, kSize * 16, 100, kIndirect}});
  Chain waiting;
  const PackedPosition before = queue.base().avail;
  EXPECT_EQ(queue.pop(driver.ring.memory(), waiting), PopResult::kNoRoom);
  EXPECT_EQ(queue.base().avail, before);
  chains.front().clear();
  ASSERT_EQ(queue.pop(driver.ring.memory(), waiting), PopResult::kChain);
  EXPECT_EQ(waiting.head(), 100);
  EXPECT_EQ(waiting.extents().size(), kSize);
}

TEST_F(PackedDeviceTest, Rule40AChainIsResubmittedFromItsFetchedDescriptors) {
  driver.add({{kA, 16, 4, kNext}, {kB, 16, 4, kWrite}});
  const std::array<PackedDescriptor, 2> fetched = {*driver.at(0), *driver.at(1)};
  *driver.at(1) = {0, 0, 0, 0};  // a used descriptor of the dead device
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  ASSERT_EQ(queue.pop_resubmitted(fetched, driver.ring.memory(), chain), PopResult::kChain);
  EXPECT_EQ(chain.head(), 4);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 16));
  EXPECT_EQ(pop(queue), PopResult::kNothing);
  ASSERT_TRUE(queue.push_used(4, 1).has_value());
  ASSERT_TRUE(queue.publish().has_value());
  EXPECT_EQ(queue.base().used, driver.next);
}

TEST_F(PackedDeviceTest, Rule40InvalidDescriptorsAreNotResubmitted) {
  driver.next = {.index = 2, .wrap = true};
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  const auto pop_resubmitted = [&](std::vector<PackedDescriptor> descriptors) {
    return queue.pop_resubmitted(descriptors, driver.ring.memory(), chain);
  };
  EXPECT_EQ(pop_resubmitted({}).error().kind, ErrorKind::kPeerFault);
  EXPECT_EQ(pop_resubmitted({{kA, 1, 8, 0}}).error().kind, ErrorKind::kPeerFault);
  EXPECT_EQ(pop_resubmitted(std::vector<PackedDescriptor>(3, {kA, 1, 1, kNext})).error().kind,
            ErrorKind::kPeerFault);
  ASSERT_EQ(pop_resubmitted({{kA, 1, 1, 0}}), PopResult::kChain);
  EXPECT_EQ(pop_resubmitted({{kA, 1, 1, 0}}).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule40UnpublishedUsedDescriptorsOfADeadDeviceAreWithdrawn) {
  driver.add({{kA, 16, 0, 0}, {kA, 16, 1, 0}, {kA, 16, 2, 0}});
  driver.at(1)->flags = kPackedAvail | kPackedUsed;
  driver.at(2)->flags = kPackedAvail | kPackedUsed | kDescriptorWrite;
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  ASSERT_TRUE(queue.withdraw_used().has_value());
  for (std::uint16_t i = 0; i < 3; ++i) EXPECT_EQ(driver.at(i)->flags, kPackedAvail) << i;
}

using PackedDeviceDeathTest = PackedDeviceTest;

TEST_F(PackedDeviceDeathTest, PushingAChainTwiceStopsTheProcess) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, 0}});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(0, 0).has_value());
  EXPECT_DEATH((void)queue.push_used(0, 0), "pushed once");
}

}  // namespace
}  // namespace guestio::virtio::packed_device_test
