// SPDX-License-Identifier: MIT
#include "guestio/disk/file/registered_bounce.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/file/test/noted_io.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

constexpr std::uint64_t kBounceBytes = std::uint64_t{1} << 20;
constexpr unsigned kPieces = 4;
constexpr std::byte kOnDisk{0x5a};

class RegisteredBounceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const UniqueFd image(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    const std::vector<std::byte> content(kBounceBytes, kOnDisk);
    ASSERT_EQ(::pwrite(image.get(), content.data(), kBounceBytes, 0),
              static_cast<ssize_t>(kBounceBytes));
    make(BounceRegistration::kRegistered, kPieces);
  }
  void make(BounceRegistration kind, unsigned buffers) {
    channel_.reset();
    disk_.reset();
    loop_ = uring::Loop::create({.ring = {}, .buffer_slots = buffers}).value();
    disk_ = FileDisk::open({.path = path_, .bounce_registration = kind}).value();
    channel_ = disk_->open_channel(*loop_, ByteCount(kBounceBytes)).value();
  }
  /// Data misaligned for any direct I/O.
  void move(IoKind kind) {
    const std::array extents = {mem::AddressRange::from_start_and_length(Gpa(4097), 8192).value()};
    const auto access =
        kind == IoKind::kRead ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly;
    test::NotedIo io;
    io.kind = kind;
    io.buffers = buf::RequestBuffers::from_extents(memory_, extents, access).value();
    io.length = io.buffers.size();
    channel_->start(io);
    loop_->run_until_idle();
    EXPECT_TRUE(io.result.has_value()) << io.result.error().to_string();
  }
  uring::RegisteredBufferStatistics statistics() {
    return loop_->registered_buffers().statistics();
  }
  std::byte guest_byte() { return *memory_.host_range(Gpa(8192), 1).value(); }

  testing::TemporaryDirectory folder_;
  std::string path_ = folder_.make_image("disk.img", kBounceBytes);
  mem::GuestMemory memory_ = mem::GuestMemory::allocate(ByteCount(65536)).value();
  std::unique_ptr<uring::Loop> loop_;
  std::unique_ptr<FileDisk> disk_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(RegisteredBounceTest, ASlabIsRegisteredAtItsFirstUse) {
  EXPECT_EQ(statistics().buffers, 0U);
  move(IoKind::kRead);
  EXPECT_EQ(guest_byte(), kOnDisk);
  move(IoKind::kRead);
  EXPECT_EQ(statistics().buffers, 1U);
  EXPECT_EQ(statistics().registered_bytes, buf::BouncePool::kSlabBytes);
  EXPECT_EQ(statistics().operations, 2U) << "each transfer names it";
}

TEST_F(RegisteredBounceTest, WritesThroughARegisteredSlabAreReadBack) {
  *memory_.host_range(Gpa(8192), 1).value() = std::byte{0x77};
  move(IoKind::kWrite);
  *memory_.host_range(Gpa(8192), 1).value() = std::byte{0};
  move(IoKind::kRead);
  EXPECT_EQ(guest_byte(), std::byte{0x77});
  EXPECT_EQ(statistics().operations, 2U);
}

TEST_F(RegisteredBounceTest, RegistrationsEndWithTheChannel) {
  move(IoKind::kRead);
  channel_.reset();
  EXPECT_EQ(statistics().buffers, 0U);
  EXPECT_EQ(statistics().registered_bytes, 0U);
}

TEST_F(RegisteredBounceTest, PlainBounceMemoryIsNotRegistered) {
  make(BounceRegistration::kPlain, kPieces);
  move(IoKind::kRead);
  EXPECT_EQ(guest_byte(), kOnDisk);
  EXPECT_EQ(statistics().buffers, 0U);
  EXPECT_EQ(statistics().refusals, 0U);
}

TEST_F(RegisteredBounceTest, ASharedLimitIsUsedOnlyOnRequest) {
  make(BounceRegistration::kIfUnlimited, kPieces);
  move(IoKind::kRead);
  EXPECT_EQ(guest_byte(), kOnDisk);
  EXPECT_EQ(statistics().buffers, uring::is_memlock_unlimited() ? 1U : 0U);
}

TEST_F(RegisteredBounceTest, ARefusalIsCountedOnceAndTransfersSucceed) {
  make(BounceRegistration::kRegistered, 0);
  move(IoKind::kRead);
  move(IoKind::kRead);
  EXPECT_EQ(guest_byte(), kOnDisk);
  EXPECT_EQ(statistics().refusals, 1U);
  EXPECT_EQ(statistics().operations, 0U);
}

}  // namespace
}  // namespace guestio::disk
