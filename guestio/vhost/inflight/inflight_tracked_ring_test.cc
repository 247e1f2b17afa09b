// SPDX-License-Identifier: MIT
#include "guestio/vhost/inflight/inflight_tracked_ring.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "guestio/virtio/driver_ring.h"
#include "guestio/virtio/ring_for_test.h"
#include "testing/rounds.h"

/// The in-flight record of a ring: a backend that dies at any moment, and its successor.
namespace guestio::vhost {
namespace {

using virtio::Chain;
using virtio::Direction;
using virtio::DriverSegment;
using virtio::PopResult;
using virtio::RingForTest;

constexpr std::uint16_t kSize = 16;
constexpr Gpa kA = RingForTest::kData;

virtio::FeatureBits features_of(virtio::RingKind kind) {
  return virtio::kFeatureVersion1 | virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx |
         (kind == virtio::RingKind::kPacked ? virtio::kFeatureRingPacked : 0);
}

/// A ring with a driver and an in-flight record.
class Bench {
 public:
  explicit Bench(virtio::RingKind kind, std::uint16_t size = kSize)
      : ring_(size),
        kind_(kind),
        record_(*InflightRecord::create(kind, 1, size)),
        driver_(make_driver()) {}

  /// A backend on the present state. `base`: as the front-end knows it.
  Result<InflightTrackedRing> start(std::uint32_t base) const {
    return InflightTrackedRing::create({.parts = parts(),
                                        .features = features_of(kind_),
                                        .base = base,
                                        .index = 0,
                                        .inflight = record_});
  }
  [[nodiscard]] std::uint32_t first_base() const {
    return kind_ == virtio::RingKind::kPacked ? 0x80008000 : 0;
  }
  [[nodiscard]] virtio::RingParts parts() const {
    if (kind_ == virtio::RingKind::kPacked) return ring_.packed_device();
    return ring_.device();
  }

  std::uint16_t add(std::size_t segments) {
    const std::vector<DriverSegment> chain(segments, {kA, 8, Direction::kReadable});
    const auto head = driver_.add(chain);
    EXPECT_TRUE(head && driver_.publish());
    return *head;
  }
  /// Heads of the chains returned since the last time.
  std::vector<std::uint16_t> reap() {
    std::vector<std::uint16_t> heads;
    auto used = driver_.reap();
    for (; used && *used; used = driver_.reap()) heads.push_back((*used)->head);
    EXPECT_TRUE(used.has_value()) << used.error().to_string();
    return heads;
  }

  [[nodiscard]] const mem::GuestMemory& memory() const { return ring_.memory(); }
  [[nodiscard]] const RingForTest& ring() const { return ring_; }
  [[nodiscard]] InflightRecord& record() const { return *record_; }
  [[nodiscard]] std::byte* region() const { return record_->region(0, ring_.driver().size()); }
  virtio::DriverRing& driver() { return driver_; }

 private:
  virtio::DriverRing make_driver() {
    const auto features = features_of(kind_);
    if (kind_ == virtio::RingKind::kPacked) {
      return virtio::DriverRing(*virtio::PackedDriverRing::create(ring_.packed_driver(), features));
    }
    return virtio::DriverRing(*virtio::SplitDriverRing::create(ring_.driver(), features));
  }

  RingForTest ring_;
  virtio::RingKind kind_;
  std::shared_ptr<InflightRecord> record_;
  virtio::DriverRing driver_;
};

struct InflightTrackedRingTest : ::testing::TestWithParam<virtio::RingKind> {
  std::uint16_t pop_head(InflightTrackedRing& ring) {
    const auto popped = ring.pop(bench.memory(), chain);
    EXPECT_TRUE(popped && *popped == PopResult::kChain);
    return chain.head();
  }

  Bench bench{GetParam()};
  Chain chain;
};

TEST_P(InflightTrackedRingTest, WithNothingInFlightANewBackendContinuesAtTheOldOnesPosition) {
  for (int round = 0; round < 20; ++round) {
    // The front-end does not know the position of the previous backend.
    auto ring = bench.start(bench.first_base());
    ASSERT_TRUE(ring.has_value()) << ring.error().to_string();
    EXPECT_EQ(ring->resubmit_count(), 0u);
    const std::uint16_t head = bench.add(3);
    EXPECT_EQ(pop_head(*ring), head);
    ASSERT_TRUE(ring->push_used(head, 0) && ring->publish());
    EXPECT_EQ(bench.reap(), std::vector<std::uint16_t>({head}));
  }
}

TEST_P(InflightTrackedRingTest, Rule40ChainsInFlightAreResubmittedInOrder) {
  std::vector<std::uint16_t> heads;
  {
    auto ring = *bench.start(bench.first_base());
    for (int i = 0; i < 5; ++i) heads.push_back(bench.add(2));
    for (int i = 0; i < 4; ++i) EXPECT_EQ(pop_head(ring), heads[static_cast<std::size_t>(i)]);
    // The second is published, the fourth only pushed.
    ASSERT_TRUE(ring.push_used(heads[1], 0) && ring.publish());
    ASSERT_TRUE(ring.push_used(heads[3], 0));
    chain.clear();
  }
  auto ring = bench.start(bench.first_base());
  ASSERT_TRUE(ring.has_value()) << ring.error().to_string();
  EXPECT_EQ(ring->resubmit_count(), 3u);
  EXPECT_EQ(ring->enable_notifications(), true) << "chains to resubmit";
  for (const std::size_t i : {0u, 2u, 3u, 4u}) EXPECT_EQ(pop_head(*ring), heads[i]);
  EXPECT_EQ(chain.readable().size(), 2u);
  EXPECT_EQ(ring->pop(bench.memory(), chain), PopResult::kNothing);
  for (const std::size_t i : {4u, 0u, 3u, 2u}) ASSERT_TRUE(ring->push_used(heads[i], 0));
  ASSERT_TRUE(ring->publish());
  EXPECT_EQ(bench.reap(),
            std::vector<std::uint16_t>({heads[1], heads[4], heads[0], heads[3], heads[2]}));
  EXPECT_EQ(bench.driver().in_flight(), 0);
}

TEST_P(InflightTrackedRingTest, Rule40RepeatedCrashesKeepTheOrder) {
  std::vector<std::uint16_t> heads;
  for (int i = 0; i < 3; ++i) heads.push_back(bench.add(2));
  for (int lives = 0; lives < 5; ++lives) {
    auto ring = *bench.start(bench.first_base());
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(pop_head(ring), heads[i]);
    chain.clear();
  }
}

TEST_P(InflightTrackedRingTest, AStoppedQueueStartsAtTheGivenBase) {
  {
    auto ring = *bench.start(bench.first_base());
    const std::uint16_t head = bench.add(1);
    EXPECT_EQ(pop_head(ring), head);
    ASSERT_TRUE(ring.push_used(head, 0) && ring.publish());
  }
  ASSERT_TRUE(bench.record().reset(0));
  const std::uint32_t base = GetParam() == virtio::RingKind::kPacked ? 0x00050005 : 5;
  EXPECT_EQ(bench.start(base)->base(), base);
}

TEST_P(InflightTrackedRingTest, Rule40ATruncatedRecordEndsTheRing) {
  auto ring = *bench.start(bench.first_base());
  bench.add(1);
  ASSERT_EQ(::ftruncate(bench.record().fd(), 0), 0);
  EXPECT_EQ(ring.pop(bench.memory(), chain).error().kind, ErrorKind::kMemoryFault);
  EXPECT_EQ(bench.start(bench.first_base()).error().kind, ErrorKind::kMemoryFault);
}

TEST_P(InflightTrackedRingTest, Rule40ARecordOfAnotherRingSizeIsRefused) {
  (void)*bench.start(bench.first_base());
  auto* const header = reinterpret_cast<InflightHeader*>(bench.region());
  header->desc_num = kSize / 2;
  EXPECT_EQ(bench.start(0).error().kind, ErrorKind::kPeerFault);
  header->desc_num = kSize;
  header->version = 2;
  EXPECT_EQ(bench.start(0).error().kind, ErrorKind::kPeerFault);
  header->version = 1;
  EXPECT_TRUE(bench.start(0).has_value());
}

TEST_P(InflightTrackedRingTest, Rule40RandomBytesInTheRecordDoNoHarm) {
  std::mt19937_64 engine(11);
  std::size_t accepted = 0;
  const std::size_t bytes = inflight_region_bytes(GetParam(), kSize);
  constexpr int kRounds = single_threaded_rounds(3000);
  for (int round = 0; round < kRounds; ++round) {
    {
      Bench fresh(GetParam());
      auto ring = *fresh.start(fresh.first_base());
      for (int i = 0; i < 5; ++i) fresh.add(2);
      for (int i = 0; i < 5; ++i) ASSERT_EQ(ring.pop(fresh.memory(), chain), PopResult::kChain);
      chain.clear();
      // Changes a few bytes of the record, more often in its first part.
      for (std::uint64_t i = engine() % 6; i != 0; --i) {
        const std::size_t at = engine() % (engine() % 2 == 0 ? 64 : bytes);
        fresh.region()[at] = static_cast<std::byte>(engine() % 3 == 0 ? engine() : engine() % 18);
      }
      auto next = fresh.start(fresh.first_base());
      if (!next) {
        EXPECT_EQ(next.error().kind, ErrorKind::kPeerFault) << next.error().to_string();
        continue;
      }
      ++accepted;
      std::deque<Chain> chains;
      for (int i = 0; i < 2 * kSize; ++i) {
        const auto popped = next->pop(fresh.memory(), chains.emplace_back());
        if (!popped || *popped != PopResult::kChain) break;
        ASSERT_LT(chains.back().head(), kSize);
        ASSERT_TRUE(next->push_used(chains.back().head(), 0));
      }
      (void)next->publish();
    }
  }
  EXPECT_GT(accepted, kRounds / 10u) << "some records are accepted";
}

INSTANTIATE_TEST_SUITE_P(Kinds, InflightTrackedRingTest,
                         ::testing::Values(virtio::RingKind::kSplit, virtio::RingKind::kPacked),
                         [](const auto& instance) {
                           return instance.param == virtio::RingKind::kSplit ? "Split" : "Packed";
                         });

TEST(SplitInflight, Rule40APublishedBatchIsCompletedAndNotResubmitted) {
  Bench bench(virtio::RingKind::kSplit);
  Chain chain;
  {
    auto ring = *bench.start(0);
    bench.add(1);
    bench.add(1);
    bench.add(1);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(ring.pop(bench.memory(), chain), PopResult::kChain);
  }
  // As if the backend had died right after it published two of them.
  SplitInflight::Recovered recovered;
  auto record = *SplitInflight::open(bench.region(), kSize, 0, recovered);
  const auto batch = std::to_array<std::uint16_t>({recovered.heads[2], recovered.heads[0]});
  ASSERT_TRUE(record.begin_publish(batch));
  SplitInflight::Recovered after;
  ASSERT_TRUE(SplitInflight::open(bench.region(), kSize, 2, after).has_value());
  EXPECT_EQ(after.heads, std::vector<std::uint16_t>({recovered.heads[1]}));
}

TEST(SplitInflight, Rule40ALoopingListOfTheLastBatchIsRefused) {
  Bench bench(virtio::RingKind::kSplit);
  (void)*bench.start(0);
  SplitInflight::Recovered recovered;
  // The head of the last batch is 0, and links to itself.
  EXPECT_EQ(SplitInflight::open(bench.region(), kSize, 2, recovered).error().kind,
            ErrorKind::kPeerFault);
  EXPECT_EQ(SplitInflight::open(bench.region(), kSize, kSize + 1, recovered).error().kind,
            ErrorKind::kPeerFault);
}

/// The memory of one request in the kill test: a token, and its copy by the device.
struct TokenSlot {
  std::uint64_t token;
  std::uint64_t answer;
};

/// A signal ends this process at any instruction within microseconds.
void die_soon(std::mt19937& engine) {
  itimerval timer{};
  timer.it_value.tv_usec = 1 + engine() % (1u << engine() % 8);
  if (::setitimer(ITIMER_REAL, &timer, nullptr) != 0) ::_exit(7);
}

/// Pops chains and returns them in any order. Dies soon after `limit` of them. Yields the processor
/// while it is idle.
[[noreturn]] void serve_and_die(const Bench& bench, std::uint32_t seed, std::size_t limit) {
  std::signal(SIGALRM, SIG_DFL);
  std::mt19937 engine(seed);
  auto ring = bench.start(bench.first_base());
  if (!ring) ::_exit(1);
  std::deque<Chain> chains(64);
  std::vector<std::size_t> busy;
  std::vector<std::size_t> idle;
  for (std::size_t i = 0; i < chains.size(); ++i) idle.push_back(i);
  while (true) {
    bool is_empty = false;
    for (auto count = engine() % 5; count != 0 && !idle.empty(); --count) {
      const auto popped = ring->pop(bench.memory(), chains[idle.back()]);
      if (!popped) ::_exit(2);
      is_empty = *popped != PopResult::kChain;
      if (is_empty) break;
      busy.push_back(idle.back());
      idle.pop_back();
    }
    for (auto count = engine() % 5; count != 0 && !busy.empty(); --count) {
      std::swap(busy[engine() % busy.size()], busy.back());
      const Chain& chain = chains[busy.back()];
      std::uint64_t token = 0;
      const auto bytes = std::as_writable_bytes(std::span(&token, 1));
      if (!bench.memory().read(chain.readable()[0].start(), bytes)) ::_exit(3);
      if (!bench.memory().write(chain.writable()[0].start(), bytes)) ::_exit(4);
      if (!ring->push_used(chain.head(), 8)) ::_exit(5);
      idle.push_back(busy.back());
      busy.pop_back();
      if (limit != 0 && --limit == 0) die_soon(engine);
    }
    if (engine() % 2 == 0 && !ring->publish()) ::_exit(6);
    if (is_empty && busy.empty()) {
      if (!ring->publish()) ::_exit(6);
      ::sched_yield();
    }
  }
}

struct KillTest : ::testing::TestWithParam<virtio::RingKind> {};

TEST_P(KillTest, Rule41EachRequestIsReturnedOnceHoweverOftenTheBackendIsKilled) {
  constexpr int kLives = single_threaded_rounds(300);
  constexpr std::uint64_t kChainsInALife = 60;
  Bench bench(GetParam(), 64);
  std::mt19937 engine(5);
  std::map<std::uint16_t, TokenSlot*> sent;
  std::uint64_t next_token = 1;
  std::uint64_t done = 0;
  const auto send = [&] {
    std::array<DriverSegment, 3> chain{};
    while (bench.driver().free_descriptors() >= chain.size()) {
      // Requests rarely share a slot: a late write shows.
      const Gpa at = kA.plus_unchecked(next_token % 4096 * sizeof(TokenSlot));
      auto* const slot = reinterpret_cast<TokenSlot*>(bench.ring().at(at));
      *slot = {.token = next_token++, .answer = 0};
      chain[0] = {at, 4, Direction::kReadable};
      chain[0].length = 8;
      chain[1] = {at.plus_unchecked(8), 8, Direction::kWritable};
      chain[2] = {at.plus_unchecked(8), 1, Direction::kWritable};
      const auto head = bench.driver().add(chain);
      ASSERT_TRUE(head.has_value());
      ASSERT_TRUE(sent.emplace(*head, slot).second);
    }
    ASSERT_TRUE(bench.driver().publish().has_value());
  };
  const auto take_returned = [&] {
    for (const std::uint16_t head : bench.reap()) {
      const auto found = sent.find(head);
      ASSERT_NE(found, sent.end());
      std::uint64_t answer = 0;
      ASSERT_TRUE(mem::try_load(&found->second->answer, answer));
      ASSERT_EQ(answer, found->second->token);
      sent.erase(found);
      ++done;
    }
  };
  for (int life = 0; life < kLives && !HasFatalFailure(); ++life) {
    const std::size_t limit = 1 + engine() % kChainsInALife;
    const pid_t backend = ::fork();
    ASSERT_GE(backend, 0);
    if (backend == 0) serve_and_die(bench, static_cast<std::uint32_t>(life), limit);
    int status = 0;
    pid_t ended = 0;
    while (ended == 0 && !HasFatalFailure()) {
      send();
      take_returned();
      ::sched_yield();
      ended = ::waitpid(backend, &status, WNOHANG);
    }
    if (ended == 0) {
      ::kill(backend, SIGKILL);
      ended = ::waitpid(backend, &status, 0);
    }
    ASSERT_EQ(ended, backend);
    ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself with status " << WEXITSTATUS(status);
    take_returned();  // returned after the last loop
  }
  // One more backend, for the rest.
  auto ring = bench.start(bench.first_base());
  ASSERT_TRUE(ring.has_value()) << ring.error().to_string();
  Chain chain;
  for (auto popped = ring->pop(bench.memory(), chain); popped && *popped == PopResult::kChain;
       popped = ring->pop(bench.memory(), chain)) {
    ASSERT_TRUE(sent.contains(chain.head()));
    sent.erase(chain.head());
    ASSERT_TRUE(ring->push_used(chain.head(), 0));
  }
  ASSERT_TRUE(ring->publish());
  EXPECT_TRUE(sent.empty()) << sent.size() << " requests are lost";
  EXPECT_FALSE(bench.reap().empty() && bench.driver().in_flight() != 0);
  EXPECT_EQ(bench.driver().in_flight(), 0);
  // On any machine: a life returns 30 chains on average, and leaves at most one ring unpublished,
  // 21 requests.
  EXPECT_GT(done, 3u * kLives);
}

INSTANTIATE_TEST_SUITE_P(Kinds, KillTest,
                         ::testing::Values(virtio::RingKind::kSplit, virtio::RingKind::kPacked),
                         [](const auto& instance) {
                           return instance.param == virtio::RingKind::kSplit ? "Split" : "Packed";
                         });

}  // namespace
}  // namespace guestio::vhost
