// SPDX-License-Identifier: MIT
// Regions of guest memory added and removed (ADD_MEM_REG, REM_MEM_REG) while rings run.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "guestio/uring/pinned_buffers.h"
#include "guestio/uring/registered_buffers.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using virtio::Direction;
using Segment = virtio::DriverSegment;

constexpr vhost::ProtocolBits kWithSlots = vhost::kProtocolMq | vhost::kProtocolConfig |
                                           vhost::kProtocolReplyAck |
                                           vhost::kProtocolConfigureMemSlots;
constexpr std::size_t kMoreBytes = std::size_t{64} << 10;

constexpr auto kAdd = std::to_underlying(vhost::FrontendRequest::kAddMemReg);
constexpr auto kRemove = std::to_underlying(vhost::FrontendRequest::kRemMemReg);
/// The payload of the messages.
constexpr std::uint64_t kSlots = 509;

class MemorySlotsTest : public BackendTest {
 protected:
  void SetUp() override { begin({}); }
  void begin(const std::vector<std::string>& options) {
    start(options);
    guest_ = connect({.protocol = kWithSlots});
    ASSERT_NE(guest_, nullptr);
    auto more = vhost::FrontendMemory::create(kMoreBytes, Gpa(0x4'0000'0000));
    ASSERT_TRUE(more.has_value());
    more_ = std::make_unique<vhost::FrontendMemory>(std::move(*more));
  }
  void TearDown() override {
    if (!backend_) return;  // skipped
    guest_.reset();
    expect_alive();
    stop();
  }

  vhost::Frontend& frontend() { return guest_->frontend(); }
  Result<> add(const vhost::Frontend::Region& region) {
    const vhost::SingleMemoryRegion message{0, region.where};
    return frontend().send_message(kAdd, std::as_bytes(std::span(&message, 1)),
                                   std::array{region.fd});
  }
  Result<> remove(const vhost::MemoryRegion& region) {
    const vhost::SingleMemoryRegion message{0, region};
    return frontend().send_message(kRemove, std::as_bytes(std::span(&message, 1)));
  }
  std::optional<std::uint64_t> max_slots() {
    vhost::Message answer;
    const auto asked = frontend().send_and_receive(
        std::to_underlying(vhost::FrontendRequest::kGetMaxMemSlots), {}, {}, answer);
    return asked ? answer.as<std::uint64_t>() : std::nullopt;
  }
  /// Reads the image's first bytes into the removable region. Returns the status.
  std::byte read_into_more() {
    const vhost::SharedRange scratch = guest_->scratch();
    const virtio::blk::RequestHeader header{virtio::blk::RequestType::kIn, 0, 0};
    std::memcpy(scratch.host, &header, sizeof header);
    scratch.host[64] = std::byte{0xff};
    const std::array chain = {Segment{scratch.gpa, 16, Direction::kReadable},
                              Segment{more_->whole().gpa, kMoreBytes, Direction::kWritable},
                              Segment{scratch.gpa.plus_unchecked(64), 1, Direction::kWritable}};
    EXPECT_TRUE(guest_->send_chain(chain).has_value());
    return scratch.host[64];
  }
  void change_under_load();
  bool is_refused(const vhost::MemoryRegion& region) { return !add({region, more_->fd()}); }

  std::unique_ptr<testing::BlkGuest> guest_;
  std::unique_ptr<vhost::FrontendMemory> more_;
};

TEST_F(MemorySlotsTest, Rule6ARegionIsMappedFromAddMemRegToRemMemReg) {
  const std::vector<std::byte> pattern(kMoreBytes, std::byte{0x5a});
  ASSERT_EQ(guest_->write(0, pattern).status, 0);
  EXPECT_EQ(read_into_more(), std::byte{1}) << "not yet mapped";
  const auto region = more_->region();
  ASSERT_TRUE(add(region));
  EXPECT_EQ(read_into_more(), std::byte{0});
  EXPECT_EQ(std::memcmp(more_->whole().host, pattern.data(), kMoreBytes), 0);
  ASSERT_TRUE(remove(region.where));
  EXPECT_EQ(read_into_more(), std::byte{1}) << "unmapped";
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
}

TEST_F(MemorySlotsTest, Rule6AllAdvertisedSlotsAreUsable) {
  EXPECT_EQ(max_slots(), kSlots);
  auto region = more_->region();
  region.where.size = 4096;
  const auto fill = [&](std::size_t slot) {
    region.where.guest_address = more_->whole().gpa.raw() + slot * 4096;
    return add(region);
  };
  // The ring's own region uses one slot.
  for (std::size_t slot = 1; slot < kSlots; ++slot) ASSERT_TRUE(fill(slot)) << slot;
  EXPECT_FALSE(fill(kSlots));
  region.where.guest_address = more_->whole().gpa.raw() + 4096;
  EXPECT_TRUE(remove(region.where));
  EXPECT_TRUE(fill(kSlots)) << "a slot is free again";
  EXPECT_EQ(guest_->read(0, 65536).status, 0);
}

void MemorySlotsTest::change_under_load() {
  const auto region = more_->region();
  constexpr int kEnoughChanges = 20;
  std::atomic<bool> is_done = false;
  std::atomic<int> changed = 0;
  std::jthread changes([&] {
    while (!is_done) {
      EXPECT_TRUE(add(region));
      EXPECT_TRUE(remove(region.where));
      ++changed;
    }
  });
  int served = 0;
  for (int round = 0; (round < 300 || changed < kEnoughChanges) && !HasFailure(); ++round) {
    EXPECT_EQ(guest_->read(0, 65536).status, 0);
    // Served on the memory map of the chain, or failed without one.
    const std::byte status = read_into_more();
    EXPECT_LE(status, std::byte{1});
    if (status == std::byte{0}) ++served;
  }
  is_done = true;
  changes.join();
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
  RecordProperty("served", served);
}

TEST_F(MemorySlotsTest, Rule6RegionChangesUnderLoadFailNoUnrelatedRequest) { change_under_load(); }

/// Each region is registered with the ring when added and unregistered when removed.
class RegisteredBuffersSlotsTest : public MemorySlotsTest {
 protected:
  void SetUp() override { begin({"--fixed-buffers", "on", "--verbose"}); }
  /// Reads repeatedly until the backend logs `text`.
  bool read_until_logged(const std::string& text) {
    bool is_read = true;
    const auto is_logged = [&] { return backend_->output().find(text) != std::string::npos; };
    (void)wait_until([&] {
      if (is_logged()) return true;
      is_read = read_into_more() == std::byte{0};
      return !is_read;
    });
    return is_read && is_logged();
  }
  static constexpr const char* kPinned = "guest memory pinned: 64 KiB";
};

TEST_F(RegisteredBuffersSlotsTest, PagesReleasedByTheGuestAreAccessedAsTheyAreNow) {
  const std::vector<std::byte> pattern(kMoreBytes, std::byte{0x5a});
  ASSERT_EQ(guest_->write(0, pattern).status, 0);
  ASSERT_TRUE(add(more_->region()));
  ASSERT_TRUE(backend_->wait_for_output(kPinned)) << backend_->output();
  ASSERT_EQ(read_into_more(), std::byte{0});
  // A balloon takes a page, and another page replaces it.
  ASSERT_EQ(::fallocate(more_->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
  std::memset(more_->whole().host, 0, kMoreBytes);
  ASSERT_EQ(read_into_more(), std::byte{0});
  EXPECT_EQ(std::memcmp(more_->whole().host, pattern.data(), kMoreBytes), 0);
  EXPECT_TRUE(read_until_logged("guest memory released")) << backend_->output();
  std::memset(more_->whole().host, 0, kMoreBytes);
  ASSERT_EQ(read_into_more(), std::byte{0});
  EXPECT_EQ(std::memcmp(more_->whole().host, pattern.data(), kMoreBytes), 0);
}

/// By default memory is registered once it is resident.
class AutoRegisteredBuffersTest : public RegisteredBuffersSlotsTest {
 protected:
  void SetUp() override {
    if (!uring::is_memlock_unlimited()) GTEST_SKIP() << "the memory-lock limit applies";
    if (!uring::PinnedBuffers::can_clone()) GTEST_SKIP() << "no support to share registrations";
    begin({"--verbose"});
  }
};

TEST_F(AutoRegisteredBuffersTest, MemoryIsPinnedOnceResident) {
  ASSERT_TRUE(add(more_->region()));
  EXPECT_EQ(backend_->output().find("guest memory pinned"), std::string::npos)
      << backend_->output();
  // The first read populates the region.
  EXPECT_TRUE(read_until_logged(kPinned)) << backend_->output();
  EXPECT_EQ(read_into_more(), std::byte{0});
}

TEST_F(RegisteredBuffersSlotsTest, RegisteredRegionsAreAddedAndRemovedUnderLoad) {
  const std::vector<std::byte> pattern(kMoreBytes, std::byte{0x5a});
  ASSERT_EQ(guest_->write(0, pattern).status, 0);
  change_under_load();
  ASSERT_TRUE(add(more_->region()));
  std::memset(more_->whole().host, 0, kMoreBytes);
  ASSERT_EQ(read_into_more(), std::byte{0});
  EXPECT_EQ(std::memcmp(more_->whole().host, pattern.data(), kMoreBytes), 0);
}

TEST_F(MemorySlotsTest, Rule6ARingResumesWhenItsRemovedRegionIsAddedAgain) {
  const auto region = guest_->memory().region();
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(guest_->read(0, 4096).status, 0);
    ASSERT_TRUE(remove(region.where)) << "the last one";
    ASSERT_FALSE(remove(region.where)) << "no region left";
    ASSERT_TRUE(add(region));
  }
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
}

TEST_F(MemorySlotsTest, Rule6MalformedRegionsAreRefused) {
  const vhost::MemoryRegion good = more_->region().where;
  ASSERT_TRUE(add(more_->region()));
  EXPECT_TRUE(is_refused(good)) << "twice";
  auto region = good;
  region.guest_address += 4096;
  EXPECT_TRUE(is_refused(region)) << "overlaps another";
  region = guest_->memory().region().where;
  EXPECT_TRUE(is_refused(region)) << "overlaps the ring's";
  region = good;
  region.guest_address += 2 * kMoreBytes;
  const vhost::MemoryRegion elsewhere = region;
  region.size = 0;
  EXPECT_TRUE(is_refused(region)) << "no bytes";
  region = elsewhere;
  region.mmap_offset = 4096;
  EXPECT_TRUE(is_refused(region)) << "across the end of the file";
  region.mmap_offset = ~std::uint64_t{0} - 4095;
  EXPECT_TRUE(is_refused(region)) << "an offset that overflows";
  region = elsewhere;
  region.guest_address = ~std::uint64_t{0} - 4095;
  EXPECT_TRUE(is_refused(region)) << "beyond the address space";
  region = elsewhere;
  region.user_address = ~std::uint64_t{0} - 4095;
  EXPECT_TRUE(is_refused(region)) << "beyond the front-end's address space";
  EXPECT_FALSE(remove(elsewhere)) << "never added";
  EXPECT_EQ(read_into_more(), std::byte{0}) << "the valid region stays mapped";
}

TEST_F(MemorySlotsTest, Rule6DescriptorsAreCountedAndClosedInEveryCase) {
  const vhost::SingleMemoryRegion message{0, more_->region().where};
  const auto payload = std::as_bytes(std::span(&message, 1));
  const int fd = more_->fd();
  ASSERT_EQ(backend_->descriptor_count(fd), 0);
  EXPECT_FALSE(frontend().send_message(kAdd, payload));
  EXPECT_FALSE(frontend().send_message(kAdd, payload, std::array{fd, fd}));
  EXPECT_FALSE(frontend().send_message(kAdd, payload.first(32), std::array{fd}));
  EXPECT_TRUE(backend_->wait_for_descriptor_count(fd, 0));
  EXPECT_TRUE(frontend().send_message(kAdd, payload, std::array{fd}));
  EXPECT_EQ(backend_->descriptor_count(fd), 1);
  EXPECT_FALSE(frontend().send_message(kAdd, payload, std::array{fd}));
  EXPECT_FALSE(frontend().send_message(kRemove, payload, std::array{fd, fd}));
  EXPECT_TRUE(frontend().send_message(kRemove, payload, std::array{fd}))
      << "QEMU has sent such a descriptor";
  // The last reference of the old map goes asynchronously.
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
  EXPECT_TRUE(backend_->wait_for_descriptor_count(fd, 0));
}

TEST_F(MemorySlotsTest, Rule44RegionsOfAnySizeAreAddedAndRemoved) {
  const std::vector<std::byte> pattern(kMoreBytes, std::byte{0x5a});
  ASSERT_EQ(guest_->write(0, pattern).status, 0);
  const vhost::SharedRange scratch = guest_->scratch();
  for (const std::uint64_t offset : {0U, 1U, 16U, 4095U, 8192U}) {
    auto region = more_->region();
    region.where.guest_address += offset;
    region.where.user_address += offset;
    region.where.mmap_offset += offset;
    region.where.size = 7568;
    ASSERT_TRUE(add(region)) << offset;
    std::memset(more_->whole().host, 0, kMoreBytes);
    const auto read_at_end = [&](std::uint64_t past_it) {
      const virtio::blk::RequestHeader header{virtio::blk::RequestType::kIn, 0, 0};
      std::memcpy(scratch.host, &header, sizeof header);
      scratch.host[64] = std::byte{0xff};
      const Gpa data(region.where.guest_address + 7568 - 512 + past_it);
      const std::array chain = {Segment{scratch.gpa, 16, Direction::kReadable},
                                Segment{data, 512, Direction::kWritable},
                                Segment{scratch.gpa.plus_unchecked(64), 1, Direction::kWritable}};
      EXPECT_TRUE(guest_->send_chain(chain).has_value());
      return scratch.host[64];
    };
    EXPECT_EQ(read_at_end(0), std::byte{0}) << offset;
    EXPECT_EQ(std::memcmp(more_->whole().host + offset + 7568 - 512, pattern.data(), 512), 0);
    EXPECT_EQ(more_->whole().host[offset + 7568], std::byte{0});
    EXPECT_EQ(read_at_end(1), std::byte{1}) << "the next byte, in the same page";
    EXPECT_EQ(more_->whole().host[offset + 7568], std::byte{0});
    ASSERT_TRUE(remove(region.where)) << offset;
  }
}

TEST_F(MemorySlotsTest, Rule4MemorySlotsRequireTheirFeature) {
  guest_.reset();
  guest_ = connect();
  EXPECT_FALSE(max_slots());
  EXPECT_FALSE(add(more_->region()));
  EXPECT_FALSE(remove(guest_->memory().region().where));
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
}

}  // namespace
}  // namespace guestio::tests
