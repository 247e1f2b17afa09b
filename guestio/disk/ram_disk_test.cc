// SPDX-License-Identifier: MIT
#include "guestio/disk/ram_disk.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>
#include <utility>

#include "testing/disk_conformance.h"

namespace guestio::uring {
class Loop;
}

namespace guestio::disk {
namespace {

using testing::DiskConformance;
using testing::DiskKind;
using testing::DiskSubject;

constexpr ByteCount kSize(std::uint64_t{4} << 20);

/// A ram disk uses no loop.
std::unique_ptr<Channel> open_channel(RamDisk& disk) {
  alignas(std::max_align_t) static std::byte no_loop[1];
  return std::move(*disk.open_channel(reinterpret_cast<uring::Loop&>(no_loop), ByteCount(0)));
}

class RamDiskSubject final : public DiskSubject {
 public:
  explicit RamDiskSubject(std::unique_ptr<RamDisk> disk) : disk_(std::move(disk)) {}
  const DiskInfo& info() const override { return disk_->info(); }
  Channel& channel() override { return *channel_; }
  void run_until(const std::function<bool()>& is_done) override { ASSERT_TRUE(is_done()); }

 private:
  std::unique_ptr<RamDisk> disk_;
  std::unique_ptr<Channel> channel_ = open_channel(*disk_);
};

INSTANTIATE_TEST_SUITE_P(
    Ram, DiskConformance,
    ::testing::Values(DiskKind{"new_disk",
                               [] {
                                 return std::make_unique<RamDiskSubject>(
                                     std::move(*RamDisk::create({.size = kSize})));
                               }},
                      DiskKind{"taken_over",
                               [] {
                                 const auto old = std::move(*RamDisk::create({.size = kSize}));
                                 return std::make_unique<RamDiskSubject>(
                                     std::move(*RamDisk::take_over({.size = kSize},
                                                                   std::move(*old->snapshot()))));
                               }}),
    [](const auto& test) { return test.param.name; });

class RamDiskTest : public ::testing::Test {
 protected:
  Result<> perform(RamDisk& disk, IoKind kind, std::uint64_t offset, std::uint64_t length) {
    testing::TestIo io;
    io.kind = kind;
    io.offset = FileOffset(offset);
    io.length = length;
    if (kind == IoKind::kRead || kind == IoKind::kWrite) {
      io.extents = {mem::AddressRange::from_checked(Gpa(0), length)};
      io.buffers = *buf::RequestBuffers::from_extents(
          memory_, io.extents,
          kind == IoKind::kRead ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
    }
    open_channel(disk)->start(io);
    return *io.result;
  }
  static std::uint64_t taken(const RamDisk& disk) {
    struct stat status{};
    EXPECT_EQ(::fstat(disk.snapshot()->io.get(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }

  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(std::uint64_t{1} << 20));
};

TEST_F(RamDiskTest, ASuccessorReadsWhatWasWritten) {
  auto old = std::move(*RamDisk::create({.size = kSize}));
  std::vector<std::byte> bytes(4096, std::byte{7});
  ASSERT_TRUE(memory_.write(Gpa(0), bytes));
  ASSERT_TRUE(perform(*old, IoKind::kWrite, 8192, 4096));
  auto snapshot = std::move(*old->snapshot());
  auto successor = std::move(*RamDisk::take_over({.size = kSize}, std::move(snapshot)));
  old.reset();
  ASSERT_TRUE(memory_.write(Gpa(0), std::vector<std::byte>(4096)));
  ASSERT_TRUE(perform(*successor, IoKind::kRead, 8192, 4096));
  std::vector<std::byte> got(4096);
  ASSERT_TRUE(memory_.read(Gpa(0), got));
  EXPECT_EQ(got, bytes);
}

TEST_F(RamDiskTest, DiscardedPagesTakeNoMemory) {
  const auto disk = std::move(*RamDisk::create({.size = kSize}));
  EXPECT_EQ(taken(*disk), 0U);
  ASSERT_TRUE(perform(*disk, IoKind::kWrite, 0, 65536));
  EXPECT_EQ(taken(*disk), 65536U);
  ASSERT_TRUE(perform(*disk, IoKind::kDiscard, 512, 65536 - 512));
  EXPECT_EQ(taken(*disk), 4096U);
}

TEST_F(RamDiskTest, ReadOnlyDisksRefuseChanges) {
  const auto disk = std::move(*RamDisk::create({.size = kSize, .is_read_only = true}));
  EXPECT_FALSE(perform(*disk, IoKind::kWrite, 0, 512));
  EXPECT_FALSE(perform(*disk, IoKind::kWriteZeroes, 0, 512));
  EXPECT_TRUE(perform(*disk, IoKind::kRead, 0, 512));
}

TEST_F(RamDiskTest, RefusesBadSizesAndForeignSnapshots) {
  EXPECT_FALSE(RamDisk::create({.size = ByteCount(511)}));
  EXPECT_FALSE(RamDisk::create({.size = kSize, .block_size = ByteCount(3)}));
  EXPECT_FALSE(RamDisk::take_over({.size = kSize}, DiskSnapshot{}));
  DiskSnapshot unsealed;
  unsealed.io = UniqueFd(::memfd_create("other", MFD_CLOEXEC));
  EXPECT_FALSE(RamDisk::take_over({.size = kSize}, std::move(unsealed)));
}

}  // namespace
}  // namespace guestio::disk
