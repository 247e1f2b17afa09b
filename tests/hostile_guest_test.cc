// SPDX-License-Identifier: MIT
// Guests that write anything into their rings while the device reads them, and owners of guest
// memory that take it away under load. Others are served meanwhile.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "guestio/mem/recover.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

namespace vblk = virtio::blk;
using testing::BlkGuest;
using virtio::Direction;
using Segment = virtio::DriverSegment;

struct RingKind {
  const char* name;
  std::uint64_t features;
};

class HostileGuestTest : public BackendTest {
 protected:
  void TearDown() override {
    expect_alive();
    stop();
    const auto lines = std::ranges::count(backend_->output(), '\n');
    EXPECT_LT(lines, 200 + lines_since(began_)) << "what a guest does is no reason to fill the log";
  }

 private:
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

/// Writes anything into a ring, the headers of its requests, and the memory that they mean.
class Attacker {
 public:
  /// `ring`: pages of descriptors, available and used ring, or their like in a packed ring.
  Attacker(vhost::SharedPiece ring, vhost::SharedPiece area, int kick, std::uint64_t seed)
      : ring_(ring), area_(area), kick_(kick), random_(seed) {}

  void strike(int times) {
    for (int i = 0; i < times; ++i) {
      switch (random_() % 8) {
        case 0: put_header(); break;
        case 1: put(random_() % ring_.size, random_()); break;
        case 2: put_index(); break;
        default: put_descriptor();
      }
      if (i % 8 == 0) (void)::eventfd_write(kick_, 1);
    }
  }

 private:
  static constexpr std::size_t kEntries = 64;
  static constexpr std::uint64_t kSectors = (std::uint64_t{16} << 20) / 512;  // of the image

  template <typename T>
  void put(std::size_t at, const T& value) {
    std::memcpy(ring_.host + std::min(at, ring_.size - sizeof value), &value, sizeof value);
  }
  void put_header() {
    const vblk::RequestHeader header{static_cast<vblk::RequestType>(random_() % 16), 0,
                                     random_() % (kSectors * 2)};
    std::memcpy(area_.host + random_() % 16 * 64, &header, sizeof header);
  }
  /// One that means something in either kind of ring now and then.
  void put_descriptor() {
    const std::uint64_t address =
        random_() % 16 == 0 ? random_() : area_.gpa.raw() + random_() % 32 * 64;
    const auto length = static_cast<std::uint32_t>(random_() % 4 == 0 ? random_() % 100'000 : 16);
    const auto first = static_cast<std::uint16_t>(random_() % kEntries);
    const auto second = static_cast<std::uint16_t>(random_() & 0x8087);
    const bool is_split = random_() % 2 == 0;
    put(random_() % kEntries * 16,
        virtio::Descriptor{address, length, is_split ? second : first, is_split ? first : second});
  }
  void put_index() {
    const std::size_t avail = kPageSize;
    put(avail + 4 + random_() % kEntries * 2, static_cast<std::uint16_t>(random_() % kEntries));
    index_ = static_cast<std::uint16_t>(index_ + random_() % 4);
    put(avail + 2, index_);
  }

  const vhost::SharedPiece ring_;
  const vhost::SharedPiece area_;
  const int kick_;
  std::mt19937_64 random_;
  std::uint16_t index_ = 0;
};

class HostileRingTest : public HostileGuestTest, public ::testing::WithParamInterface<RingKind> {};

TEST_P(HostileRingTest, WhateverIsWrittenIntoARingTheOtherOneIsServedAndTheRingCanBeStopped) {
  start({"--num-queues", "2", "--threads", "1"});
  const auto guest = connect({.features = GetParam().features, .queues = 2});
  ASSERT_NE(guest, nullptr);
  vhost::Frontend& frontend = guest->frontend();
  // The first queue's three parts begin guest memory, a page each.
  const vhost::SharedPiece ring = guest->memory().whole().part(0, 3 * kPageSize);
  const auto area = guest->memory().allocate(std::size_t{1} << 20, kPageSize);
  ASSERT_TRUE(area);
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const bool is_packed = (GetParam().features & virtio::kFeatureRingPacked) != 0;
  for (std::uint64_t round = 0; round < 25; ++round) {
    ASSERT_TRUE(guest->queue(0).stop(frontend)) << "whatever it has taken is answered";
    std::memset(ring.host, 0, ring.size);
    ASSERT_TRUE(frontend.set_vring_base(0, is_packed ? 0x80008000 : 0));
    ASSERT_TRUE(frontend.set_vring_kick(0, kick.get()));
    Attacker attacker(ring, *area, kick.get(), round);
    std::jthread attack([&] { attacker.strike(2000); });
    for (int i = 0; i < 10; ++i) {
      const auto answer = guest->perform(BlkGuest::Type::kGetId, 0, {}, 20, 0, 1);
      ASSERT_EQ(answer.status, 0);
      ASSERT_EQ(std::memcmp(answer.data.data(), "guestio-", 8), 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, HostileRingTest,
                         ::testing::Values(RingKind{"Split", ~virtio::kFeatureRingPacked},
                                           RingKind{"Packed", ~std::uint64_t{0}}),
                         [](const auto& instance) { return instance.param.name; });

/// Data in memory of its own, whose owner takes it away; rings, headers and status stay.
class TakenMemoryTest : public HostileGuestTest {
 protected:
  static constexpr std::size_t kDataBytes = std::size_t{64} << 10;
  static constexpr std::byte kPattern{0x5a};

  void SetUp() override {
    ASSERT_TRUE(mem::install_fault_recovery());
    start();
    guest_ = connect();
    ASSERT_NE(guest_, nullptr);
    auto data = vhost::FrontendMemory::create(2 * kDataBytes, Gpa(0x4'0000'0000));
    ASSERT_TRUE(data.has_value());
    data_ = std::make_unique<vhost::FrontendMemory>(std::move(*data));
    const std::array regions = {guest_->memory().region(), data_->region()};
    ASSERT_TRUE(guest_->frontend().set_mem_table(regions));
    const std::vector<std::byte> pattern(2 * kDataBytes, kPattern);
    ASSERT_EQ(guest_->write(0, pattern).status, 0);
  }
  void TearDown() override {
    guest_.reset();
    HostileGuestTest::TearDown();
  }

  /// One request of kDataBytes with its data `misalignment` bytes into the memory that goes.
  std::byte perform(BlkGuest::Type type, std::uint64_t sector, std::size_t misalignment) {
    const vhost::SharedPiece scratch = guest_->scratch();
    const vblk::RequestHeader header{type, 0, sector};
    std::memcpy(scratch.host, &header, sizeof header);
    scratch.host[64] = std::byte{0xff};
    const bool reads = type == BlkGuest::Type::kIn;
    const std::array chain = {Segment{scratch.gpa, sizeof header, Direction::kReadable},
                              Segment{data_->whole().gpa.plus_unchecked(misalignment), kDataBytes,
                                      reads ? Direction::kWritable : Direction::kReadable},
                              Segment{scratch.gpa.plus_unchecked(64), 1, Direction::kWritable}};
    EXPECT_TRUE(guest_->send_chain(chain).has_value()) << backend_->output();
    return scratch.host[64];
  }

  /// Reads and writes while `take_away` is called again and again. What was written may be the
  /// pattern, or zeroes that memory held which was given back.
  void serve_under(const std::function<void(int file)>& take_away) {
    constexpr std::uint64_t kTarget = 4096;  // a sector that nothing else writes to
    std::atomic<bool> is_done = false;
    std::jthread owner([&] {
      while (!is_done) take_away(data_->fd());
    });
    for (int round = 0; round < 200; ++round) {
      const std::size_t misalignment = round % 2 == 0 ? 0 : 3;
      ASSERT_LE(perform(BlkGuest::Type::kIn, 0, misalignment), std::byte{1});
      ASSERT_LE(perform(BlkGuest::Type::kOut, kTarget, misalignment), std::byte{1});
    }
    is_done = true;
    owner.join();
    const auto kept = guest_->read(0, 2 * kDataBytes);
    ASSERT_EQ(kept.status, 0);
    EXPECT_EQ(std::ranges::count(kept.data, kPattern), 2 * kDataBytes) << "what nobody wrote to";
    const auto target = guest_->read(kTarget, kDataBytes);
    ASSERT_EQ(target.status, 0);
    EXPECT_TRUE(std::ranges::all_of(
        target.data, [](std::byte byte) { return byte == kPattern || byte == std::byte{0}; }));
    const auto behind = guest_->read(kTarget + kDataBytes / 512, kDataBytes);
    EXPECT_EQ(std::ranges::count(behind.data, std::byte{0}), kDataBytes) << "behind it";
  }

  std::unique_ptr<BlkGuest> guest_;
  std::unique_ptr<vhost::FrontendMemory> data_;
};

TEST_F(TakenMemoryTest, MemoryThatIsCutOffAndComesBackFailsRequestsAndHarmsNothing) {
  serve_under([](int file) {
    (void)!::ftruncate(file, kPageSize);
    std::this_thread::yield();
    (void)!::ftruncate(file, 2 * kDataBytes);
    std::this_thread::yield();
  });
}

TEST_F(TakenMemoryTest, MemoryThatIsPunchedHoldsZeroesAndNothingElse) {
  serve_under([](int file) {
    (void)::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, kDataBytes / 2);
    std::this_thread::yield();
  });
}

TEST_F(TakenMemoryTest, MemoryThatStaysAwayIsAnErrorEachTime) {
  ASSERT_EQ(::ftruncate(data_->fd(), 0), 0);
  for (int round = 0; round < 20; ++round) {
    const std::size_t misalignment = round % 2 == 0 ? 0 : 3;
    ASSERT_EQ(perform(BlkGuest::Type::kIn, 0, misalignment), std::byte{1});
    ASSERT_EQ(perform(BlkGuest::Type::kOut, 4096, misalignment), std::byte{1});
  }
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
}

}  // namespace
}  // namespace guestio::tests
