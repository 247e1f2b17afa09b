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

/// A driver that is played by hand, and the memory that it shares with a device.
class HandPlayedDriver {
 public:
  explicit HandPlayedDriver(std::uint16_t size, PackedPosition first = {})
      : ring(size), next(first) {}

  /// Makes descriptors available where the driver stands; their flags lack only whose they are.
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

/// A device's queue on a ring of eight entries.
struct PackedDeviceTest : testing::Test {
  static constexpr std::uint16_t kSize = 8;

  PackedDeviceRing make_queue(FeatureBits features = kFeatureIndirectDesc) {
    auto queue =
        PackedDeviceRing::create(driver.ring.packed_device(), features, {driver.next, driver.next});
    EXPECT_TRUE(queue.has_value());
    return std::move(*queue);
  }
  /// Pops a chain that must be there.
  void pop_chain(PackedDeviceRing& queue) {
    const auto popped = queue.pop(driver.ring.memory(), chain);
    ASSERT_TRUE(popped.has_value()) << popped.error().to_string();
    ASSERT_EQ(*popped, PopResult::kChain);
  }
  Result<PopResult> pop(PackedDeviceRing& queue) { return queue.pop(driver.ring.memory(), chain); }

  HandPlayedDriver driver{kSize};
  Chain chain;
};

TEST_F(PackedDeviceTest, AnEmptyRingHasNothing) {
  auto queue = make_queue();
  EXPECT_EQ(pop(queue), PopResult::kNothing);
}

TEST_F(PackedDeviceTest, AChainHasItsReadableExtentsFirstThenTheWritable) {
  auto queue = make_queue();
  // The last descriptor says the id; what the others say means nothing.
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

TEST_F(PackedDeviceTest, Rule22AChainDoesNotChangeAfterItWasTaken) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, kNext}, {kB, 512, 0, kWrite}});
  pop_chain(queue);
  *driver.at(0) = *driver.at(1) = {kC, 99, 7, 0};
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(queue.fetched()[1].length, 512u);
}

TEST_F(PackedDeviceTest, AnIndirectTableStandsForItsDescriptorsInOrder) {
  auto queue = make_queue();
  // Ids and links in a table mean nothing.
  const std::array<PackedDescriptor, 3> table = {
      {{kA, 16, 77, kNext}, {kB, 512, 78, kWrite}, {kC, 1, 79, kWrite}}};
  driver.put_table(table);
  // The device ignores the write flag of the descriptor that points to a table.
  driver.add({{kTableAt, sizeof(table), 3, kIndirect | kWrite}});
  pop_chain(queue);
  ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
  EXPECT_EQ(chain.head(), 3);
  ASSERT_EQ(chain.extents().size(), 3u);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 512));
  EXPECT_EQ(chain.writable()[1], range(kC, 1));
}

TEST_F(PackedDeviceTest, Rule24TheWrapCounterTurnsWhenOneChainFillsTheRing) {
  auto queue = make_queue();
  for (std::uint16_t lap = 0; lap < 4; ++lap) {
    SCOPED_TRACE(lap);
    const bool wrap = lap % 2 != 0;  // what it turns to
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

TEST_F(PackedDeviceTest, Rule24ABufferIdThatIsInFlightIsFatal) {
  auto queue = make_queue();
  driver.add({{kA, 16, 2, 0}, {kB, 16, 2, 0}});
  pop_chain(queue);
  EXPECT_EQ(pop(queue).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule24ABufferIdIsFreeAgainOnceItWasAnswered) {
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

TEST_F(PackedDeviceTest, Rule25AChainThatRunsIntoOneInFlightIsFatal) {
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

constexpr std::uint64_t kS = kA + 0x3000;  // of a status
constexpr std::uint64_t kWrapping = ~std::uint64_t{0} - 14;

/// An entry of a table, or the last of a chain whose id is 4.
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
  HandPlayedDriver driver(kEntries);
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

/// What is wrong in the ring itself.
std::vector<MalformedCase> malformed_direct_chains() {
  const std::vector<PackedDescriptor> good = {{kA, 16, 0, 0}, kStatus};
  return {
      {"readable behind writable", {{kA, 16, 0, kNext | kWrite}, {kB, 16, 4, 0}}, {}, kA + 15},
      {"readable between writable",
       {{kA, 512, 0, kNext | kWrite}, {kB, 16, 0, kNext}, {kS, 2, 4, kWrite}},
       {},
       kS + 1},
      {"readable behind writable, and an empty end",
       {{kS, 1, 0, kNext | kWrite}, {kB, 16, 0, kNext}, {kC, 0, 4, kWrite}},
       {},
       kS},
      {"nothing to write in", {{kWrapping, 16, 4, 0}}},
      {"a readable extent that wraps", {{kWrapping, 16, 0, kNext}, kStatus}, {}, kS},
      {"a writable extent that wraps", {{kA, 16, 0, kNext}, {kWrapping, 16, 4, kWrite}}},
      {"a last writable extent that wraps",
       {{kS, 1, 0, kNext | kWrite}, {kWrapping, 16, 4, kWrite}}},
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
      {"indirect behind a direct one", {{kA, 16, 0, kNext}, {kTableAt, 32, 4, kIndirect}}, good},
      {"indirect behind a status",
       {{kS, 1, 0, kNext | kWrite}, {kTableAt, 32, 4, kIndirect}},
       good},
  };
}

/// What is wrong about a table, or in it.
std::vector<MalformedCase> malformed_tables() {
  const std::vector<PackedDescriptor> good = {{kA, 16, 0, 0}, kStatus};
  const auto table = [](std::uint32_t entries) {
    return std::vector<PackedDescriptor>{{kTableAt, entries * 16, 4, kIndirect}};
  };
  return {
      {"indirect that was not negotiated", table(2), good, std::nullopt, 0},
      {"an empty table", {{kTableAt, 0, 4, kIndirect}}},
      {"a table and a half", {{kTableAt, 40, 4, kIndirect}}, good},
      {"a table of nearly one", {{kTableAt, 15, 4, kIndirect}}, {kStatus}},
      {"a table outside memory", {{0x1000, 16, 4, kIndirect}}},
      {"a table that leaves memory",
       {{RingForTest::kStart.raw() + RingForTest::kBytes - 16, 32, 4, kIndirect}}},
      {"a table that wraps", {{~std::uint64_t{0} - 15, 32, 4, kIndirect}}},
      {"a table inside a table", table(2), {{kA, 16, 0, 0}, {kTableAt, 16, 0, kIndirect}}},
      {"a table inside a table before a status",
       table(3),
       {{kA, 16, 0, 0}, {kTableAt, 16, 0, kIndirect}, kStatus},
       kS},
      {"a table inside a table behind a status",
       table(3),
       {{kA, 16, 0, 0}, kStatus, {kTableAt, 16, 0, kIndirect}}},
      {"readable behind writable in a table",
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
      {"a table of too many descriptors that ends in a table", table(1025),
       table_of(1025, {kTableAt, 16, 0, kIndirect | kWrite})},
      {"a table of 256 MiB", {{kTableAt, 0xfffffff0, 4, kIndirect}}, good},
  };
}

void check_malformed(const std::vector<MalformedCase>& cases) {
  for (const MalformedCase& c : cases) {
    SCOPED_TRACE(c.name);
    HandPlayedDriver driver(8);
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
    // The ring goes on.
    ASSERT_EQ(queue.pop(driver.ring.memory(), chain), PopResult::kChain);
    EXPECT_FALSE(chain.is_malformed());
    EXPECT_EQ(chain.head(), 7);
    EXPECT_TRUE(queue.push_used(4, 0).has_value());
    EXPECT_TRUE(queue.push_used(7, 0).has_value());
    EXPECT_TRUE(queue.publish().has_value());
    EXPECT_EQ(queue.base().used, queue.base().avail);
  }
}

TEST(PackedDeviceRing, Rule23And27AMalformedChainComesOutWithItsLastWritableByteIfThatIsCertain) {
  check_malformed(malformed_direct_chains());
  check_malformed(malformed_tables());
}

TEST_F(PackedDeviceTest, Rule27AMalformedChainThatIsTakenAgainComesOutTheSame) {
  driver.next = {.index = 3, .wrap = true};
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  const std::array<PackedDescriptor, 3> fetched = {
      {{kA, 512, 0, kNext | kWrite}, {kB, 16, 0, kNext}, kStatus}};
  ASSERT_EQ(queue.pop_again(fetched, driver.ring.memory(), chain), PopResult::kChain);
  ASSERT_TRUE(chain.is_malformed());
  ASSERT_TRUE(chain.last_writable());
  EXPECT_EQ(chain.last_writable()->raw(), kS);
}

TEST_F(PackedDeviceTest, AnswersAreSeenAllAtOnceWhenPublished) {
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
  // The first answer took as many places as its chain had.
  EXPECT_EQ(driver.at(1)->id, 3);
  EXPECT_EQ(driver.at(1)->flags, kPackedAvail | kPackedUsed);
  EXPECT_EQ(queue.base().used, (PackedPosition{.index = 3, .wrap = true}));
  EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_F(PackedDeviceTest, Rule13BothPlacesAreCarriedOverWithTheirWrapCounters) {
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

TEST_F(PackedDeviceTest, Rule20PlacesThatTheRingDoesNotHaveAreRefused) {
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

TEST_F(PackedDeviceTest, WithoutEventIndexTheFlagSaysWhetherToCall) {
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

TEST_F(PackedDeviceTest, Rule26ACallComesWhenTheBatchPassesTheEventInWhateverLap) {
  struct Case {
    PackedPosition event;
    bool wanted;
  };
  // The batch goes from place 6 of one lap to place 2 of the next.
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
    EXPECT_EQ(queue.publish(), c.wanted);
  }
}

TEST_F(PackedDeviceTest, Rule26EnablingKicksSaysWhatItMissed) {
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

TEST_F(PackedDeviceTest, RingMemoryThatGoesAwayIsAMemoryFaultEverywhere) {
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

TEST_F(PackedDeviceTest, GoesOnWhereARingWasMappedAnew) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, 0}, {kA, 16, 1, 0}});
  pop_chain(queue);
  queue.move_to(driver.ring.packed_driver());
  pop_chain(queue);
  EXPECT_EQ(chain.head(), 1);
}

TEST(PackedDeviceRing, Rule37WithoutRoomForALongChainItStaysInTheRing) {
  constexpr std::uint16_t kSize = 512;
  HandPlayedDriver driver(kSize);
  auto queue = *PackedDeviceRing::create(driver.ring.packed_device(), kFeatureIndirectDesc, {});
  driver.put_table(std::vector<PackedDescriptor>(kSize, {kA, 1, 0, 0}));
  std::deque<Chain> taken;
  for (std::uint16_t id = 0; id < ExtentArena::kHugeBlocks; ++id) {
    driver.add({{kTableAt, kSize * 16, id, kIndirect}});
    ASSERT_EQ(queue.pop(driver.ring.memory(), taken.emplace_back()), PopResult::kChain);
  }
  driver.add({{kTableAt, kSize * 16, 100, kIndirect}});
  Chain waiting;
  const PackedPosition before = queue.base().avail;
  EXPECT_EQ(queue.pop(driver.ring.memory(), waiting), PopResult::kNoRoom);
  EXPECT_EQ(queue.base().avail, before);
  taken.front().clear();
  ASSERT_EQ(queue.pop(driver.ring.memory(), waiting), PopResult::kChain);
  EXPECT_EQ(waiting.head(), 100);
  EXPECT_EQ(waiting.extents().size(), kSize);
}

TEST_F(PackedDeviceTest, Rule40AChainIsTakenAgainFromWhatWasFetched) {
  driver.add({{kA, 16, 4, kNext}, {kB, 16, 4, kWrite}});
  const std::array<PackedDescriptor, 2> fetched = {*driver.at(0), *driver.at(1)};
  *driver.at(1) = {0, 0, 0, 0};  // the device wrote an answer there before it died
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  ASSERT_EQ(queue.pop_again(fetched, driver.ring.memory(), chain), PopResult::kChain);
  EXPECT_EQ(chain.head(), 4);
  EXPECT_EQ(chain.readable()[0], range(kA, 16));
  EXPECT_EQ(chain.writable()[0], range(kB, 16));
  EXPECT_EQ(pop(queue), PopResult::kNothing);
  ASSERT_TRUE(queue.push_used(4, 1).has_value());
  ASSERT_TRUE(queue.publish().has_value());
  EXPECT_EQ(queue.base().used, driver.next);
}

TEST_F(PackedDeviceTest, Rule40WhatCannotHaveBeenInFlightIsNotTakenAgain) {
  driver.next = {.index = 2, .wrap = true};
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  const auto pop_again = [&](std::vector<PackedDescriptor> descriptors) {
    return queue.pop_again(descriptors, driver.ring.memory(), chain);
  };
  EXPECT_EQ(pop_again({}).error().kind, ErrorKind::kPeerFault);
  EXPECT_EQ(pop_again({{kA, 1, 8, 0}}).error().kind, ErrorKind::kPeerFault);
  EXPECT_EQ(pop_again(std::vector<PackedDescriptor>(3, {kA, 1, 1, kNext})).error().kind,
            ErrorKind::kPeerFault);
  ASSERT_EQ(pop_again({{kA, 1, 1, 0}}), PopResult::kChain);
  EXPECT_EQ(pop_again({{kA, 1, 1, 0}}).error().kind, ErrorKind::kPeerFault);
}

TEST_F(PackedDeviceTest, Rule40AnswersThatADeadDeviceDidNotFinishWritingAreTakenBack) {
  driver.add({{kA, 16, 0, 0}, {kA, 16, 1, 0}, {kA, 16, 2, 0}});
  driver.at(1)->flags = kPackedAvail | kPackedUsed;
  driver.at(2)->flags = kPackedAvail | kPackedUsed | kDescriptorWrite;
  auto queue = *PackedDeviceRing::create(
      driver.ring.packed_device(), 0, {.avail = driver.next, .used = {.index = 0, .wrap = true}});
  ASSERT_TRUE(queue.withdraw_answers().has_value());
  for (std::uint16_t i = 0; i < 3; ++i) EXPECT_EQ(driver.at(i)->flags, kPackedAvail) << i;
}

using PackedDeviceDeathTest = PackedDeviceTest;

TEST_F(PackedDeviceDeathTest, AChainThatIsPushedTwiceIsABugOfOurs) {
  auto queue = make_queue();
  driver.add({{kA, 16, 0, 0}});
  pop_chain(queue);
  ASSERT_TRUE(queue.push_used(0, 0).has_value());
  EXPECT_DEATH((void)queue.push_used(0, 0), "pushed once");
}

}  // namespace
}  // namespace guestio::virtio::packed_device_test
