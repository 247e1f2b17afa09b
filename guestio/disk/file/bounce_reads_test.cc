// SPDX-License-Identifier: MIT
#include "guestio/disk/file/bounce_reads.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <vector>

#include "guestio/disk/file/file_disk.h"
#include "guestio/mem/recover.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

using buf::BounceReason;
using buf::IoBuffer;

constexpr std::uint64_t kImageBytes = std::uint64_t{4} << 20;

/// A segment without accessible memory.
IoBuffer segment(std::uintptr_t address, std::size_t length) {
  return {reinterpret_cast<std::byte*>(address), length};
}

TEST(BounceReads, DependOnTheDistanceBetweenMemoryAndOffset) {
  for (const std::uintptr_t well : {0x1000U, 0x1010U, 0x1200U}) {
    EXPECT_FALSE(is_misaligned(std::vector{segment(well, 4096)}, FileOffset(512))) << well;
    EXPECT_TRUE(is_misaligned(std::vector{segment(well + 1, 4096)}, FileOffset(512))) << well;
    EXPECT_TRUE(is_misaligned(std::vector{segment(well + 8, 4096)}, FileOffset(512))) << well;
    EXPECT_FALSE(is_misaligned(std::vector{segment(well + 8, 4096)}, FileOffset(520))) << well;
  }
  // The second segment continues the alignment of the first.
  EXPECT_FALSE(
      is_misaligned(std::vector{segment(0x1000, 100), segment(0x2004, 412)}, FileOffset(0)));
  EXPECT_TRUE(
      is_misaligned(std::vector{segment(0x1000, 100), segment(0x2000, 412)}, FileOffset(0)));
}

TEST(BounceReads, ASmallMisalignedPartIsNotWorthABounce) {
  EXPECT_FALSE(
      is_misaligned(std::vector{segment(0x1000, 4096), segment(0x4001, 512)}, FileOffset(0)));
  EXPECT_TRUE(
      is_misaligned(std::vector{segment(0x1000, 512), segment(0x4001, 512)}, FileOffset(0)));
  EXPECT_FALSE(is_misaligned({}, FileOffset(0)));
}

TEST(BounceReads, AnUnreadableFileIsNotTimed) {
  const testing::MemoryFile file(kImageBytes);
  EXPECT_FALSE(are_misaligned_reads_slow(file.fd(), 512)) << "too small to tell";
  EXPECT_FALSE(are_misaligned_reads_slow(-1, kImageBytes));
}

struct TestIo final : Io {
  void on_done(Result<> done) noexcept override { result = done; }
  Result<> result = fail(ErrorKind::kBusy, "not done");
};

class BounceReadTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(mem::install_fault_recovery()); }
  /// Fills and opens the file.
  void open(const std::string& path, const FileDiskOptions& options, std::uint64_t bounce_limit) {
    for (std::size_t i = 0; i < content_.size(); ++i) {
      content_[i] = static_cast<std::byte>(i ^ (i >> 8U) ^ (i >> 13U));
    }
    const UniqueFd image(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::pwrite(image.get(), content_.data(), kImageBytes, 0),
              static_cast<ssize_t>(kImageBytes));
    disk_ = FileDisk::open(options).value();
    channel_ = disk_->open_channel(*loop_, ByteCount(bounce_limit)).value();
  }
  void start(TestIo& io, std::uint64_t from, std::uint64_t to, std::uint64_t length) {
    const auto extent = mem::AddressRange::from_checked(Gpa(to), length);
    io.kind = IoKind::kRead;
    io.offset = FileOffset(from);
    io.length = length;
    io.buffers =
        buf::RequestBuffers::from_extents(memory_, {&extent, 1}, buf::MemoryAccess::kWritable)
            .value();
    channel_->start(io);
  }
  Result<> read(std::uint64_t from, std::uint64_t to, std::uint64_t length) {
    TestIo io;
    start(io, from, to, length);
    loop_->run_until_idle();
    return io.result;
  }
  [[nodiscard]] bool holds(std::uint64_t from, std::uint64_t to, std::uint64_t length) const {
    std::vector<std::byte> bytes(length + 2);
    EXPECT_TRUE(memory_.read(Gpa(to - 1), bytes));
    return bytes.front() == std::byte{0} && bytes.back() == std::byte{0} &&
           std::equal(bytes.begin() + 1, bytes.end() - 1,
                      content_.begin() + static_cast<std::ptrdiff_t>(from));
  }
  std::uint64_t copied() const {
    return channel_->statistics().transfers.bounced[BounceReason::kSlowCopy];
  }
  std::uint64_t direct() const { return channel_->statistics().transfers.direct_bytes.value(); }

  std::vector<std::byte> content_ = std::vector<std::byte>(kImageBytes);
  mem::GuestMemory memory_ = mem::GuestMemory::allocate(ByteCount(2 * kImageBytes)).value();
  testing::TemporaryDirectory folder_;
  testing::MemoryFile file_{kImageBytes};
  std::unique_ptr<uring::Loop> loop_ = uring::Loop::create().value();
  std::unique_ptr<FileDisk> disk_;
  std::unique_ptr<Channel> channel_;
};

constexpr std::uint64_t kPlacedBounce = std::uint64_t{8} << 20;

TEST_F(BounceReadTest, CallsOfAnySizeAreComplete) {
  open(file_.path(), {.path = file_.path(), .bounce_reads = BounceReads::kAlways}, kPlacedBounce);
  std::uint64_t expected = 0;
  for (const std::uint64_t length : {512U, 4096U, 65536U, 66048U, 1U << 20U, (1U << 20U) + 512U}) {
    ASSERT_TRUE(memory_.fill(Gpa(0), std::byte{0}, 2 * kImageBytes));
    ASSERT_TRUE(read(1536, 4097, length));
    EXPECT_TRUE(holds(1536, 4097, length)) << length;
    expected += length;
    EXPECT_EQ(copied(), expected);
  }
  EXPECT_EQ(direct(), 0U);
}

TEST_F(BounceReadTest, AlignedReadsAndWritesAreNotBounced) {
  open(file_.path(), {.path = file_.path(), .bounce_reads = BounceReads::kAlways}, kPlacedBounce);
  ASSERT_TRUE(read(512, 4096 + 16, 65536));
  TestIo write;
  const auto extent = mem::AddressRange::from_checked(Gpa(1), 65536);
  write.kind = IoKind::kWrite;
  write.length = extent.length();
  write.buffers =
      buf::RequestBuffers::from_extents(memory_, {&extent, 1}, buf::MemoryAccess::kReadOnly)
          .value();
  channel_->start(write);
  loop_->run_until_idle();
  EXPECT_TRUE(write.result);
  EXPECT_EQ(direct(), 2U * 65536);
  EXPECT_EQ(copied(), 0U);
}

TEST_F(BounceReadTest, NothingIsBouncedIfDisabled) {
  open(file_.path(), {.path = file_.path(), .bounce_reads = BounceReads::kNever}, kPlacedBounce);
  ASSERT_TRUE(read(0, 4097, 65536));
  EXPECT_TRUE(holds(0, 4097, 65536));
  EXPECT_EQ(direct(), 65536U);
}

TEST_F(BounceReadTest, WithoutFreeBounceMemoryReadsGoDirect) {
  const auto path = folder_.make_image("disk.img", kImageBytes);
  constexpr std::uint64_t kRead = 16384;
  constexpr std::uint64_t kReads = 16;
  open(path, {.path = path, .caching = Caching::kBuffered, .bounce_reads = BounceReads::kAlways},
       4 * kRead);
  std::deque<TestIo> reads(kReads);
  for (std::uint64_t i = 0; i < kReads; ++i) start(reads[i], i * kRead, 1 + 2 * i * kRead, kRead);
  loop_->run_until_idle();
  for (std::uint64_t i = 0; i < kReads; ++i) {
    EXPECT_TRUE(reads[i].result);
    EXPECT_TRUE(holds(i * kRead, 1 + 2 * i * kRead, kRead)) << i;
  }
  EXPECT_GT(copied(), 0U);
  EXPECT_GT(direct(), 0U);
  EXPECT_EQ(copied() + direct(), kReads * kRead);
  EXPECT_EQ(channel_->statistics().bounce.waits, 0U);
}

TEST_F(BounceReadTest, ATruncatedFileFailsTheRead) {
  open(file_.path(), {.path = file_.path(), .bounce_reads = BounceReads::kAlways}, kPlacedBounce);
  ASSERT_EQ(::ftruncate(file_.fd(), 100'000), 0);
  EXPECT_FALSE(read(0, 4097, std::uint64_t{1} << 18));
  EXPECT_FALSE(read(std::uint64_t{1} << 20, 4097, 4096));
  EXPECT_TRUE(read(512, 4097, 65536));
}

}  // namespace
}  // namespace guestio::disk
