// SPDX-License-Identifier: MIT
// Guests that overwrite their rings while the device reads them, and front-ends that truncate guest
// memory under load. Other guests are served meanwhile.
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
    EXPECT_LT(lines, 200 + max_log_lines_since(began_)) << "a guest cannot flood the log";
  }

 private:
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

/// Overwrites a ring, its request headers and their buffers with random contents.
class Attacker {
 public:
  /// `ring`: the pages of descriptors, available and used ring, or their counterparts in a packed
  /// ring.
  Attacker(vhost::SharedRange ring, vhost::SharedRange area, int kick, std::uint64_t seed)
      : ring_(ring), area_(area), kick_(kick), random_(seed) {}

  void overwrite(int times) {
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
  /// A descriptor with a fair chance to be valid in either kind of ring.
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

  const vhost::SharedRange ring_;
  const vhost::SharedRange area_;
  const int kick_;
  std::mt19937_64 random_;
  std::uint16_t index_ = 0;
};

class HostileRingTest : public HostileGuestTest, public ::testing::WithParamInterface<RingKind> {};

TEST_P(HostileRingTest, RandomRingContentsHarmNoOtherRingAndAllowGetVringBase) {
  start({"--num-queues", "2", "--threads", "1"});
  const auto guest = connect({.features = GetParam().features, .queues = 2});
  ASSERT_NE(guest, nullptr);
  vhost::Frontend& frontend = guest->frontend();
  // The first queue's three areas begin guest memory, a page each.
  const vhost::SharedRange ring = guest->memory().whole().part(0, 3 * kPageSize);
  const auto area = guest->memory().allocate(std::size_t{1} << 20, kPageSize);
  ASSERT_TRUE(area);
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const bool is_packed = (GetParam().features & virtio::kFeatureRingPacked) != 0;
  for (std::uint64_t round = 0; round < 25; ++round) {
    ASSERT_TRUE(guest->queue(0).stop(frontend)) << "GET_VRING_BASE drains the ring";
    std::memset(ring.host, 0, ring.size);
    ASSERT_TRUE(frontend.set_vring_base(0, is_packed ? 0x80008000 : 0));
    ASSERT_TRUE(frontend.set_vring_kick(0, kick.get()));
    Attacker attacker(ring, *area, kick.get(), round);
    std::jthread attack([&] { attacker.overwrite(2000); });
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

/// A descriptor of either kind of ring; the links of a split one are set in order.
struct RawDescriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
};

/// A ring written byte by byte by the test, in place of the guest's first queue.
class RawRing {
 public:
  RawRing(BlkGuest& guest, bool is_packed)
      : guest_(guest), ring_(guest.memory().whole().part(0, 3 * kPageSize)), packed_(is_packed) {}

  /// Starts an empty ring on a reset device.
  void restart() {
    vhost::Frontend& frontend = guest_.frontend();
    ASSERT_TRUE(frontend.get_vring_base(0));
    ASSERT_TRUE(frontend.set_status(0));
    constexpr std::uint8_t kRunning = 0xf;
    ASSERT_TRUE(frontend.set_status(kRunning));
    std::memset(ring_.host, 0, ring_.size);
    ASSERT_TRUE(frontend.set_vring_base(0, packed_ ? 0x80008000 : 0));
    ASSERT_TRUE(frontend.set_vring_err(0, error_.get()));
    ASSERT_TRUE(frontend.set_vring_kick(0, kick_.get()));
    ASSERT_TRUE(frontend.set_vring_enable(0, true));
  }
  /// Adds a chain of consecutive descriptors.
  void send(const std::vector<RawDescriptor>& descriptors) {
    for (std::size_t i = descriptors.size(); i-- > 0;) {
      put(ring_.host + 16 * i, descriptors[i], i, packed_ ? virtio::kPackedAvail : 0);
    }
    const std::uint16_t one = 1;
    // The head is 0 already.
    if (!packed_) std::memcpy(ring_.host + kPageSize + 2, &one, sizeof one);
    ASSERT_EQ(::eventfd_write(kick_.get(), 1), 0);
  }
  void put_table(std::byte* at, const std::vector<RawDescriptor>& entries) const {
    for (std::size_t i = 0; i < entries.size(); ++i) put(at + 16 * i, entries[i], i, 0);
  }
  /// Waits until the chain is in the used ring or the ring has stopped. Returns whether it is.
  [[nodiscard]] bool is_returned() const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < until) {
      eventfd_t count = 0;
      const bool has_stopped = ::eventfd_read(error_.get(), &count) == 0;
      if (is_used()) return true;
      if (has_stopped) return false;
      std::this_thread::yield();
    }
    ADD_FAILURE() << "neither a used entry nor VringErr";
    return false;
  }

 private:
  void put(std::byte* at, const RawDescriptor& descriptor, std::size_t index, int more) const {
    const auto flags = static_cast<std::uint16_t>(descriptor.flags | more);
    const auto next = static_cast<std::uint16_t>(index + 1);
    const std::uint16_t id = 0;
    std::memcpy(at, &descriptor.address, 8);
    std::memcpy(at + 8, &descriptor.length, 4);
    std::memcpy(at + 12, packed_ ? &id : &flags, 2);
    std::atomic_thread_fence(std::memory_order_release);
    std::memcpy(at + 14, packed_ ? &flags : &next, 2);
  }
  [[nodiscard]] bool is_used() const {
    std::uint16_t word = 0;
    EXPECT_TRUE(mem::try_load_acquire(
        reinterpret_cast<const std::uint16_t*>(ring_.host + (packed_ ? 14 : 2 * kPageSize + 2)),
        word));
    return packed_ ? (word & virtio::kPackedUsed) != 0 : word != 0;
  }

  BlkGuest& guest_;
  const vhost::SharedRange ring_;
  const bool packed_;
  const UniqueFd kick_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  const UniqueFd error_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

class MalformedChainTest : public HostileGuestTest, public ::testing::WithParamInterface<RingKind> {
 protected:
  static constexpr std::uint16_t kNext = virtio::kDescriptorNext;
  static constexpr std::uint16_t kWrite = virtio::kDescriptorWrite;
  static constexpr std::uint16_t kIndirect = virtio::kDescriptorIndirect;
  enum class Outcome { kError, kNever };
  struct Case {
    const char* name;
    std::vector<RawDescriptor> ring;
    std::vector<RawDescriptor> table;
    Outcome outcome;
    Outcome packed_outcome;
  };

  [[nodiscard]] bool is_packed() const {
    return (GetParam().features & virtio::kFeatureRingPacked) != 0;
  }
  [[nodiscard]] std::vector<RawDescriptor> straight(std::size_t entries) const {
    std::vector<RawDescriptor> table(entries, {header_, 16, kNext});
    table.back() = {status_, 1, kWrite};
    return table;
  }
  [[nodiscard]] std::vector<Case> cases() const {
    constexpr auto kError = Outcome::kError;
    constexpr auto kNever = Outcome::kNever;
    const RawDescriptor header{header_, 16, kNext};
    const RawDescriptor data{data_, 512, kNext | kWrite};
    const RawDescriptor huge{data_, 0xffffffff, kNext | kWrite};
    const RawDescriptor status{status_, 1, kWrite};
    const std::vector<RawDescriptor> good = {header, data, status};
    const auto table = [this](std::uint32_t bytes) {
      return std::vector<RawDescriptor>{{table_, bytes, kIndirect}};
    };
    return {
        {"no writable byte", {{header_, 16, 0}}, {}, kNever, kNever},
        {"no writable byte in a table", table(16), {{header_, 16, 0}}, kNever, kNever},
        {"a status outside memory", {header, {0, 1, kWrite}}, {}, kNever, kNever},
        {"a status outside memory in a table", table(32), {header, {0, 1, kWrite}}, kNever, kNever},
        {"readable after writable", {data, header, status}, {}, kError, kError},
        {"readable after writable in a table", table(48), {data, header, status}, kError, kError},
        {"readable after the status",
         {{status_, 1, kNext | kWrite}, {header_, 16, 0}},
         {},
         kError,
         kError},
        {"more than 4 GiB", {header, huge, status}, {}, kError, kError},
        {"more than 4 GiB in a table", table(48), {header, huge, status}, kError, kError},
        {"data that wraps", {header, {~0ULL - 7, 512, kNext | kWrite}, status}, {}, kError, kError},
        {"a status that wraps", {header, {~0ULL, 2, kWrite}}, {}, kNever, kNever},
        {"a table of too many", table(1025 * 16), straight(1025), kError, kError},
        {"a table of nothing", table(0), good, kNever, kNever},
        {"a table and a half", table(40), {header, status, status}, kError, kNever},
        {"a table of half", table(8), good, kNever, kNever},
        {"a table cut off in the middle", table(24), good, kNever, kNever},
        {"a table outside memory", {{0, 48, kIndirect}}, {}, kNever, kNever},
        {"a table inside a table", table(32), {header, {table_, 48, kIndirect}}, kNever, kNever},
        {"a table inside a table before the status",
         table(48),
         {header, {table_, 48, kIndirect | kNext}, status},
         kError,
         kError},
        {"a table with next",
         {{table_, 48, kIndirect | kNext}, {header_, 16, 0}},
         good,
         kNever,
         kNever},
        {"a table with next before the status",
         {{table_, 48, kIndirect | kNext}, status},
         good,
         kError,
         kError},
        // Flags end a packed chain, or the size of its indirect table.
        {"next at the end of a table", table(32), {header, data}, kNever, kError},
    };
  }

  std::uint64_t header_ = 0;
  std::uint64_t data_ = 0;
  std::uint64_t status_ = 0;
  std::uint64_t table_ = 0;
};

TEST_P(MalformedChainTest, Rule27ItReturnsWithAnErrorOrNeverButNotWithAStaleSuccess) {
  start();
  const auto guest = connect({.features = GetParam().features,
                              .protocol = vhost::kProtocolMq | vhost::kProtocolConfig |
                                          vhost::kProtocolReplyAck | vhost::kProtocolStatus});
  ASSERT_NE(guest, nullptr);
  const vhost::SharedRange scratch = guest->scratch();
  header_ = scratch.gpa.raw();
  status_ = header_ + 64;
  data_ = header_ + kPageSize;
  table_ = header_ + 2 * kPageSize;
  std::byte& status = scratch.host[64];
  const vblk::RequestHeader request{BlkGuest::Type::kIn, 0, 0};
  std::memcpy(scratch.host, &request, sizeof request);
  RawRing ring(*guest, is_packed());
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    ASSERT_NO_FATAL_FAILURE(ring.restart());
    status = std::byte{0};  // of the previous request
    const bool is_data_status =
        is_packed() && c.packed_outcome != c.outcome && c.packed_outcome == Outcome::kError;
    ring.put_table(scratch.host + 2 * kPageSize, c.table);
    ring.send(c.ring);
    const Outcome outcome = ring.is_returned() ? Outcome::kError : Outcome::kNever;
    ASSERT_EQ(outcome, is_packed() ? c.packed_outcome : c.outcome);
    if (outcome == Outcome::kError && !is_data_status) {
      EXPECT_EQ(status, std::byte{1});
    }
    constexpr std::uint64_t kNeedsReset = 0x40;
    const auto device_status = guest->frontend().get_status();
    ASSERT_TRUE(device_status);
    EXPECT_EQ((*device_status & kNeedsReset) != 0, outcome == Outcome::kNever);
  }
}

INSTANTIATE_TEST_SUITE_P(, MalformedChainTest,
                         ::testing::Values(RingKind{"Split", ~virtio::kFeatureRingPacked},
                                           RingKind{"Packed", ~std::uint64_t{0}}),
                         [](const auto& instance) { return instance.param.name; });

/// Rings of few entries, and requests of all offered segments.
class ShortRingTest : public BackendTest, public ::testing::WithParamInterface<RingKind> {};

TEST_P(ShortRingTest, Rule23And52RequestsOfAllOfferedSegmentsAreServedOnAQueueOfSixteen) {
  start();
  const auto guest = connect({.features = GetParam().features, .queue_size = 16});
  ASSERT_NE(guest, nullptr);
  const std::uint32_t segments = guest->config().seg_max;
  ASSERT_GT(segments, 16U);
  const vhost::SharedRange scratch = guest->scratch();
  constexpr std::size_t kSegment = 512;
  constexpr std::size_t kStep = 1024;  // segments do not touch
  const auto table_at = scratch.part(kPageSize, (segments + 2) * sizeof(virtio::Descriptor));
  const virtio::DriverTable table{reinterpret_cast<virtio::Descriptor*>(table_at.host),
                                  table_at.gpa, segments + 2};
  const auto perform = [&](BlkGuest::Type type, Direction direction) {
    const vblk::RequestHeader header{type, 0, 64};
    std::memcpy(scratch.host, &header, sizeof header);
    scratch.host[64] = std::byte{0xff};
    std::vector<Segment> chain = {{scratch.gpa, sizeof header, Direction::kReadable}};
    for (std::uint32_t i = 0; i < segments; ++i) {
      chain.push_back(
          {scratch.gpa.plus_unchecked(16 * kPageSize + i * kStep), kSegment, direction});
    }
    chain.push_back({scratch.gpa.plus_unchecked(64), 1, Direction::kWritable});
    ASSERT_TRUE(guest->queue().ring().add_indirect(chain, table));
    ASSERT_TRUE(guest->queue().ring().publish());
    ASSERT_TRUE(guest->queue().kick());
    ASSERT_TRUE(guest->wait_for_used(0, std::chrono::seconds(60)));
    EXPECT_EQ(scratch.host[64], std::byte{0});
  };
  const auto data_of = [&](std::uint32_t segment) {
    return std::span(scratch.host + 16 * kPageSize + segment * kStep, kSegment);
  };
  for (std::uint32_t i = 0; i < segments; ++i) {
    std::ranges::fill(data_of(i), static_cast<std::byte>(i + 1));
  }
  ASSERT_NO_FATAL_FAILURE(perform(BlkGuest::Type::kOut, Direction::kReadable));
  for (std::uint32_t i = 0; i < segments; ++i) std::ranges::fill(data_of(i), std::byte{0});
  ASSERT_NO_FATAL_FAILURE(perform(BlkGuest::Type::kIn, Direction::kWritable));
  for (std::uint32_t i = 0; i < segments; ++i) {
    const auto wanted = static_cast<std::byte>(i + 1);
    ASSERT_EQ(std::ranges::count(data_of(i), wanted), kSegment) << "segment " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(, ShortRingTest,
                         ::testing::Values(RingKind{"Split", ~virtio::kFeatureRingPacked},
                                           RingKind{"Packed", ~std::uint64_t{0}}),
                         [](const auto& instance) { return instance.param.name; });

/// Data in a region of its own, which the front-end truncates; rings, headers and status stay.
class RevokedMemoryTest : public HostileGuestTest {
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

  /// One request of kDataBytes with its data `misalignment` bytes into the revoked region.
  std::byte perform(BlkGuest::Type type, std::uint64_t sector, std::size_t misalignment) {
    const vhost::SharedRange scratch = guest_->scratch();
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

  /// Reads and writes while `revoke` is called repeatedly. A written sector holds the pattern, or
  /// zeroes from restored memory.
  void serve_under(const std::function<void(int file)>& revoke) {
    constexpr std::uint64_t kTarget = 4096;  // a sector without other writers
    std::atomic<bool> is_done = false;
    std::jthread owner([&] {
      while (!is_done) revoke(data_->fd());
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
    EXPECT_EQ(std::ranges::count(kept.data, kPattern), 2 * kDataBytes)
        << "a sector without writers";
    const auto target = guest_->read(kTarget, kDataBytes);
    ASSERT_EQ(target.status, 0);
    EXPECT_TRUE(std::ranges::all_of(
        target.data, [](std::byte byte) { return byte == kPattern || byte == std::byte{0}; }));
    const auto behind = guest_->read(kTarget + kDataBytes / 512, kDataBytes);
    EXPECT_EQ(std::ranges::count(behind.data, std::byte{0}), kDataBytes) << "after it";
  }

  std::unique_ptr<BlkGuest> guest_;
  std::unique_ptr<vhost::FrontendMemory> data_;
};

TEST_F(RevokedMemoryTest, TruncatedAndRestoredMemoryFailsOnlyRequests) {
  serve_under([](int file) {
    (void)!::ftruncate(file, kPageSize);
    std::this_thread::yield();
    (void)!::ftruncate(file, 2 * kDataBytes);
    std::this_thread::yield();
  });
}

TEST_F(RevokedMemoryTest, PunchedMemoryReadsAsZeroes) {
  serve_under([](int file) {
    (void)::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, kDataBytes / 2);
    std::this_thread::yield();
  });
}

TEST_F(RevokedMemoryTest, TruncatedMemoryFailsEachAccess) {
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
