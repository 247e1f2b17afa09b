// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "guestio/virtio/ring_exerciser_for_test.h"
#include "guestio/virtio/ring_for_test.h"
#include "guestio/virtio/split_device_ring.h"
#include "guestio/virtio/split_driver_ring.h"
#include "testing/rounds.h"

/// Both sides of a ring against each other: random, in two threads, and with a hostile driver.
namespace guestio::virtio::split_property_test {
namespace {

std::vector<RingConfig> all_configs() {
  std::vector<RingConfig> configs;
  for (const std::uint32_t size : {1u, 2u, 16u, 256u}) {
    for (const FeatureBits features : {FeatureBits{0}, kFeatureEventIdx, kFeatureIndirectDesc,
                                       kFeatureEventIdx | kFeatureIndirectDesc}) {
      configs.push_back({size, features});
    }
  }
  return configs;
}

/// Split rings, for RingExerciser.
struct SplitRings {
  using Driver = SplitDriverRing;
  using Device = SplitDeviceRing;
  static Driver driver(const RingForTest& ring, FeatureBits features, std::uint16_t first) {
    return *Driver::create(ring.driver(), features, first);
  }
  static Device device(const RingForTest& ring, FeatureBits features, std::uint16_t first) {
    return *Device::create(ring.device(), features, first);
  }
};

struct BothSides : testing::TestWithParam<RingConfig> {};

TEST_P(BothSides, EachChainIsPoppedInOrderAndReturnedOnce) {
  const RingForTest ring(GetParam().size);
  RingExerciser<SplitRings> exerciser(ring, GetParam(), 65000);
  const int rounds = single_threaded_rounds(20000);
  for (int round = 0; round < rounds && !HasFatalFailure(); ++round) {
    exerciser.add_chains();
    exerciser.pop_chains();
    exerciser.return_chains();
    exerciser.reap_chains();
  }
  for (int round = 0; round < 20000 && !exerciser.is_idle(); ++round) {
    exerciser.pop_chains();
    exerciser.return_chains();
    exerciser.reap_chains();
  }
  EXPECT_TRUE(exerciser.is_idle());
  EXPECT_GT(exerciser.finished(), static_cast<std::size_t>(rounds) / 4)
      << "a lost kick or call stopped the ring";
}

INSTANTIATE_TEST_SUITE_P(Settings, BothSides, testing::ValuesIn(all_configs()), name_of);

/// Pops and returns chains until the ring is broken.
void run_device_until_broken(SplitDeviceRing& queue, const RingForTest& ring) {
  Chain chain;
  for (std::uint32_t i = 0; i < 4u * queue.size(); ++i) {
    const auto popped = queue.pop(ring.memory(), chain);
    if (!popped || *popped != PopResult::kChain) break;
    EXPECT_LT(chain.head(), queue.size());
    EXPECT_LE(chain.extents().size(), kMaxChainDescriptors);
    EXPECT_TRUE(!chain.is_malformed() || chain.extents().empty());
    for (const mem::AddressRange& extent : chain.extents()) EXPECT_FALSE(extent.is_empty());
    if (!queue.push_used(chain.head(), 0) || !queue.publish()) break;
  }
  (void)queue.enable_notifications();
}

TEST(HostileDriver, RandomBytesInTheRingDoTheDeviceNoHarm) {
  const RingForTest ring(64);
  std::mt19937_64 engine(7);
  const auto random = [&engine](std::uint64_t limit) { return engine() % limit; };
  for (int iteration = 0; iteration < single_threaded_rounds(20000); ++iteration) {
    const SplitRing driver = ring.driver();
    for (std::uint16_t i = 0; i < 64; ++i) {
      // Often plausible, for long walks.
      *driver.descriptor(i) = {
          random(4) == 0 ? engine() : RingForTest::kStart.raw() + random(RingForTest::kBytes),
          static_cast<std::uint32_t>(random(3) == 0 ? engine() : random(64) * 16),
          static_cast<std::uint16_t>(random(8) == 0 ? engine() : random(8)),
          static_cast<std::uint16_t>(random(16) == 0 ? engine() : random(64))};
      *driver.avail_head(i) = static_cast<std::uint16_t>(random(200) == 0 ? engine() : random(64));
    }
    const auto start = static_cast<std::uint16_t>(engine());
    *driver.avail_index() = static_cast<std::uint16_t>(start + random(66));
    *driver.used_index() = static_cast<std::uint16_t>(engine());
    *driver.used_event() = static_cast<std::uint16_t>(engine());
    auto queue = SplitDeviceRing::create(
        ring.device(), random(2) == 0 ? 0 : kFeatureIndirectDesc | kFeatureEventIdx, start);
    ASSERT_TRUE(queue.has_value());
    run_device_until_broken(*queue, ring);
  }
}

TEST(HostileDriver, ConcurrentWritesToTheRingDoTheDeviceNoHarm) {
  const RingForTest ring(64);
  std::atomic<bool> stop = false;
  const SplitRing driver = ring.driver();
  // Stores invisible to the sanitizers, like a guest's.
  std::thread scribbler([&] {
    std::mt19937_64 engine(9);
    while (!stop.load(std::memory_order_relaxed)) {
      const auto i = static_cast<std::uint16_t>(engine() % 64);
      auto* const words = reinterpret_cast<std::uint64_t*>(driver.descriptor(i));
      (void)mem::try_store(words, RingForTest::kStart.raw() + engine() % RingForTest::kBytes);
      (void)mem::try_store(words + 1,
                           (engine() % 64 << 48) | (engine() % 8 << 32) | engine() % 64 * 16);
      (void)mem::try_store(driver.avail_head(i), static_cast<std::uint16_t>(engine() % 64));
      (void)mem::try_store(driver.avail_index(), static_cast<std::uint16_t>(engine() % 66));
    }
  });
  for (int iteration = 0; iteration < 20000; ++iteration) {
    auto queue = SplitDeviceRing::create(ring.device(), kFeatureIndirectDesc | kFeatureEventIdx, 0);
    ASSERT_TRUE(queue.has_value());
    run_device_until_broken(*queue, ring);
  }
  stop = true;
  scribbler.join();
}

/// A device on its own thread, until `is_over`: writes the sum of a chain's readable numbers into
/// its writable bytes. Spins where a real device would sleep.
void run_summing_device(const RingForTest& ring, FeatureBits features,
                        const std::atomic<bool>& is_over) {
  auto queue = *SplitDeviceRing::create(ring.device(), features, 0);
  Chain chain;
  for (std::size_t done = 0; !is_over;) {
    const auto popped = queue.pop(ring.memory(), chain);
    ASSERT_TRUE(popped.has_value()) << popped.error().to_string();
    if (*popped == PopResult::kNothing) {
      ASSERT_TRUE(queue.publish().has_value());
      std::this_thread::yield();
      continue;
    }
    std::array<std::uint64_t, 8> numbers{};
    std::uint64_t sum = 0;
    ASSERT_TRUE(ring.memory().read(chain.readable()[0].start(),
                                   std::as_writable_bytes(std::span(numbers))));
    for (const std::uint64_t number : numbers) sum += number;
    ASSERT_TRUE(
        ring.memory().write(chain.writable()[0].start(), std::as_bytes(std::span(&sum, 1))));
    ASSERT_TRUE(queue.push_used(chain.head(), sizeof(sum)).has_value());
    ++done;
    if (done % 3 == 0) {
      ASSERT_TRUE(queue.publish().has_value());
    }
  }
}

/// The memory of one request: numbers in, their sum out.
struct SumSlot {
  std::array<std::uint64_t, 8> numbers;
  std::uint64_t sum;
};

void check_sum(const SumSlot& slot) {
  std::uint64_t expected = 0;
  for (const std::uint64_t& number : slot.numbers) {
    std::uint64_t value = 0;
    ASSERT_TRUE(mem::try_load(&number, value));
    expected += value;
  }
  std::uint64_t sum = 0;
  ASSERT_TRUE(mem::try_load(&slot.sum, sum));
  ASSERT_EQ(sum, expected);
}

TEST(TwoThreads, DataIsVisibleWithTheIndex) {
  // On one busy processor each switch between the two waits for all other threads: a large ring
  // needs few switches.
  constexpr std::size_t kRequests = 40000;
  constexpr std::uint16_t kSize = 128;
  const RingForTest ring(kSize);
  auto queue = *SplitDriverRing::create(ring.driver(), kFeatureEventIdx);
  std::atomic<bool> is_over = false;
  std::thread device([&] { run_summing_device(ring, kFeatureEventIdx, is_over); });
  std::array<const SumSlot*, kSize> slot_of{};  // by head
  std::uint64_t next = 1;
  for (std::size_t sent = 0, done = 0; done < kRequests && !::testing::Test::HasFailure();) {
    while (queue.free_descriptors() >= 2) {
      // The device returns chains in order: a slot is free in the next round.
      const Gpa at = RingForTest::kData.plus_unchecked(sent % kSize * sizeof(SumSlot));
      auto* const slot = reinterpret_cast<SumSlot*>(ring.at(at));
      for (std::uint64_t& number : slot->numbers) ASSERT_TRUE(mem::try_store(&number, next++));
      const std::array<DriverSegment, 2> segments = {
          {{at, sizeof(slot->numbers), Direction::kReadable},
           {at.plus_unchecked(offsetof(SumSlot, sum)), 8, Direction::kWritable}}};
      const auto head = queue.add(segments);
      ASSERT_TRUE(head.has_value());
      slot_of[*head] = slot;
      ++sent;
    }
    ASSERT_TRUE(queue.publish().has_value());
    auto used = queue.reap();
    for (; used && *used; used = queue.reap(), ++done) check_sum(*slot_of[(*used)->head]);
    ASSERT_TRUE(used.has_value()) << used.error().to_string();
    std::this_thread::yield();
  }
  is_over = true;
  device.join();
}

}  // namespace
}  // namespace guestio::virtio::split_property_test
