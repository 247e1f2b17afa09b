// SPDX-License-Identifier: MIT
// A FileDisk on a loop device: it counts its flushes, can shrink, and has dirty pages in the page
// cache.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <vector>

#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/file/test/noted_io.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/recover.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

constexpr std::uint64_t kLoopBytes = std::uint64_t{4} << 20;
constexpr unsigned kLargeBlocks = 4096;  // a guest may write part of one
constexpr std::size_t kGuestBytes = std::size_t{1} << 20;

class LoopDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (testing::LoopDevice(image_, kLargeBlocks).path().empty()) {
      GTEST_SKIP() << "this machine gives no loop devices";
    }
    ASSERT_TRUE(mem::install_fault_recovery());
  }
  void open(Caching caching, unsigned block_size = kLargeBlocks) {
    open(image_, caching, block_size);
  }
  void open(const std::string& storage, Caching caching, unsigned block_size) {
    channel_.reset();
    disk_.reset();
    device_.emplace(storage, block_size);
    ASSERT_FALSE(device_->path().empty());
    auto disk = FileDisk::open({.path = device_->path(), .caching = caching});
    ASSERT_TRUE(disk) << disk.error().to_string();
    disk_ = std::move(*disk);
    channel_ = disk_->open_channel(*loop_, ByteCount(kGuestBytes)).value();
  }
  void fill(std::byte value) {
    const std::vector<std::byte> bytes(kGuestBytes, value);
    ASSERT_TRUE(memory_.write(Gpa(0), bytes));
  }
  std::vector<std::byte> guest_bytes(std::uint64_t at, std::size_t size) {
    std::vector<std::byte> bytes(size);
    EXPECT_TRUE(memory_.read(Gpa(at), bytes));
    return bytes;
  }
  /// One request; its data, if any, is at `at` in guest memory.
  Result<> perform(IoKind kind, std::uint64_t offset, std::uint64_t length, std::uint64_t at = 0,
                   Durability durability = Durability::kCached) {
    test::NotedIo io;
    io.kind = kind;
    io.offset = FileOffset(offset);
    io.length = length;
    io.durability = durability;
    const std::array extents = {mem::AddressRange::from_checked(Gpa(at), length)};
    if (kind == IoKind::kRead || kind == IoKind::kWrite) {
      io.buffers =
          buf::RequestBuffers::from_extents(
              memory_, extents,
              kind == IoKind::kRead ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly)
              .value();
    }
    channel_->start(io);
    loop_->run_until_idle();
    return io.result;
  }
  /// Flushes of the device so far.
  std::uint64_t flushes() const {
    constexpr int kFlushField = 15;  // Documentation/block/stat.rst
    struct stat status{};
    EXPECT_EQ(::stat(device_->path().c_str(), &status), 0);
    std::ifstream counts(
        fmt::format("/sys/dev/block/{}:{}/stat", major(status.st_rdev), minor(status.st_rdev)));
    std::uint64_t count = 0;
    for (int i = 0; i <= kFlushField; ++i) counts >> count;
    EXPECT_TRUE(counts.good());
    return count;
  }
  /// Shrinks the device to `bytes` without notice to the disk.
  void shrink(std::uint64_t bytes) {
    ASSERT_EQ(::truncate(image_.c_str(), static_cast<off_t>(bytes)), 0);
    const UniqueFd device(::open(device_->path().c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::ioctl(device.get(), LOOP_SET_CAPACITY, 0), 0);
  }

  testing::TemporaryDirectory folder_;
  std::string image_ = folder_.make_image("disk.img", kLoopBytes);
  std::optional<testing::LoopDevice> device_;
  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(kGuestBytes));
  std::unique_ptr<uring::Loop> loop_ = uring::Loop::create().value();
  std::unique_ptr<FileDisk> disk_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(LoopDeviceTest, Rule36AShortReadShowsNoBytesOfOtherRequests) {
  open(Caching::kDirect);
  fill(std::byte{0x66});
  ASSERT_TRUE(perform(IoKind::kWrite, 0, 65536, 1)) << "leaves its bytes in bounce memory";
  constexpr std::uint64_t kEnd = 1 << 20;
  shrink(kEnd);
  fill(std::byte{0x11});
  // Only one block arrives. The window begins inside it, so it does not fill the window.
  const auto read = perform(IoKind::kRead, kEnd - 4096 + 512, 4096);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().kind, ErrorKind::kShortTransfer);
  const auto seen = guest_bytes(0, 4096);
  EXPECT_EQ(std::ranges::count(seen, std::byte{0x66}), 0) << "bytes of the write before";
  // A request within the arriving bytes is served.
  ASSERT_TRUE(perform(IoKind::kRead, kEnd - 4096 + 512, 3584));
  EXPECT_EQ(guest_bytes(0, 3584), std::vector<std::byte>(3584));
  EXPECT_EQ(guest_bytes(3584, 512), std::vector<std::byte>(512, std::byte{0x11}));
}

TEST_F(LoopDeviceTest, Rule31AStableWriteHasReachedTheDeviceOnEitherPath) {
  const auto flushes_of = [&](std::uint64_t length, std::uint64_t at, Durability durability) {
    const auto before = flushes();
    EXPECT_TRUE(perform(IoKind::kWrite, 8192, length, at, durability));
    return flushes() - before;
  };
  struct Way {
    const char* name;
    unsigned block_size;
    std::uint64_t length;
    std::uint64_t at;
  };
  // Writes of whole blocks take the fast path.
  for (const Way& way : {Way{"as it lies", 512, 4096, 4096}, Way{"bounced", 512, 4096, 1},
                         Way{"whole blocks beside others", kLargeBlocks, 4096, 4096},
                         Way{"part of a block", kLargeBlocks, 512, 4096}}) {
    open(Caching::kDirect, way.block_size);
    EXPECT_EQ(flushes_of(way.length, way.at, Durability::kCached), 0U) << way.name;
    EXPECT_GT(flushes_of(way.length, way.at, Durability::kStable), 0U) << way.name;
  }
}

TEST_F(LoopDeviceTest, Rule31StableWriteZeroesAndDiscardsHaveReachedTheDevice) {
  open(Caching::kDirect);
  for (const IoKind kind : {IoKind::kWriteZeroes, IoKind::kDiscard}) {
    const auto before = flushes();
    ASSERT_TRUE(perform(kind, 0, 65536, 0, Durability::kStable));
    EXPECT_GT(flushes(), before) << to_text(kind);
  }
}

TEST_F(LoopDeviceTest, Rule30NoFlushSucceedsAfterAStableWriteLostData) {
  const testing::TmpfsMount small(folder_.file("small"), kGuestBytes);
  if (small.path().empty()) GTEST_SKIP() << "this machine lets nobody mount";
  const std::string storage = small.path() + "/storage";
  const UniqueFd file(::open(storage.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const UniqueFd filler(::open((small.path() + "/filler").c_str(), O_RDWR | O_CREAT, 0600));
  fill(std::byte{7});
  struct Way {
    const char* name;
    IoKind kind;
    unsigned block_size;
    std::uint64_t length;
  };
  // Zeroes in a partial block of the device are written, on the slow path.
  for (const Way& way : {Way{"a write", IoKind::kWrite, 512, 65536},
                         Way{"zeroes", IoKind::kWriteZeroes, kLargeBlocks, 512}}) {
    channel_.reset();
    disk_.reset();
    device_.reset();
    ASSERT_EQ(::ftruncate(file.get(), 0), 0);
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(kLoopBytes)), 0);
    open(storage, Caching::kBuffered, way.block_size);
    ASSERT_EQ(::posix_fallocate(filler.get(), 0, static_cast<off_t>(kGuestBytes)), 0) << way.name;
    ASSERT_TRUE(perform(IoKind::kWrite, 0, 65536)) << way.name << ", into the cache";
    const auto lost = perform(way.kind, 0, way.length, 0, Durability::kStable);
    ASSERT_FALSE(lost) << way.name;
    EXPECT_EQ(lost.error().kind, ErrorKind::kDataLost) << way.name;
    // The kernel would let all of these succeed now.
    ASSERT_EQ(::ftruncate(filler.get(), 0), 0);
    EXPECT_FALSE(perform(IoKind::kFlush, 0, 0)) << way.name;
    EXPECT_FALSE(perform(way.kind, 0, way.length, 0, Durability::kStable)) << way.name;
    EXPECT_FALSE(perform(IoKind::kFlush, 0, 0)) << way.name;
    EXPECT_TRUE(perform(IoKind::kWrite, 0, 65536)) << way.name << ", promises nothing";
    EXPECT_TRUE(perform(IoKind::kRead, 0, 65536)) << way.name;
  }
}

TEST_F(LoopDeviceTest, Rule50ZeroesAreWrittenAndADiscardSucceedsWhileTheCacheIsInUse) {
  open(Caching::kBuffered);
  fill(std::byte{7});
  for (const auto durability : {Durability::kCached, Durability::kStable}) {
    // Dirty pages make the kernel return EBUSY.
    ASSERT_TRUE(perform(IoKind::kWrite, 0, kGuestBytes));
    ASSERT_TRUE(perform(IoKind::kDiscard, 0, 65536, 0, durability));
    ASSERT_TRUE(perform(IoKind::kWrite, 0, kGuestBytes));
    const auto before = flushes();
    ASSERT_TRUE(perform(IoKind::kWriteZeroes, 4096 + 512, 300000 / 512 * 512, 0, durability));
    if (durability == Durability::kStable) {
      EXPECT_GT(flushes(), before);
    }
    ASSERT_TRUE(perform(IoKind::kRead, 0, kGuestBytes));
    std::vector<std::byte> expected(kGuestBytes, std::byte{7});
    std::fill_n(expected.begin() + 4096 + 512, 300000 / 512 * 512, std::byte{0});
    EXPECT_EQ(guest_bytes(0, kGuestBytes), expected);
    fill(std::byte{7});
  }
  EXPECT_EQ(channel_->statistics().shortages, 0U) << "what is in use is not waited for";
}

}  // namespace
}  // namespace guestio::disk
