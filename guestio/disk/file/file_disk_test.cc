// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_disk.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "testing/temporary.h"

namespace guestio::disk {
namespace {

class FileDiskTest : public ::testing::Test {
 protected:
  Result<std::unique_ptr<FileDisk>> open(const std::string& path) {
    return FileDisk::open({.path = path});
  }
  testing::TemporaryDirectory folder_;
};

TEST_F(FileDiskTest, ReportsTheFactsOfTheFile) {
  const auto disk = open(folder_.make_image("disk.img", 1 << 20));
  ASSERT_TRUE(disk.has_value()) << disk.error().to_string();
  EXPECT_EQ((*disk)->info().size, ByteCount(1 << 20));
  EXPECT_FALSE((*disk)->info().is_read_only);
  EXPECT_TRUE((*disk)->info().write_zeroes.has_value());
}

TEST_F(FileDiskTest, AReadOnlyDiskOffersNoModifyingOperations) {
  const auto disk = FileDisk::open(
      {.path = folder_.make_image("disk.img", 1 << 20), .access = ImageAccess::kReadOnly});
  ASSERT_TRUE(disk.has_value());
  EXPECT_TRUE((*disk)->info().is_read_only);
  EXPECT_FALSE((*disk)->info().discard.has_value());
  EXPECT_FALSE((*disk)->info().write_zeroes.has_value());
}

TEST_F(FileDiskTest, RefusesAnythingButFilesAndBlockDevices) {
  EXPECT_EQ(open(folder_.file("missing")).error().host_errno, ENOENT);
  EXPECT_EQ(open(folder_.path()).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(open("/dev/null").error().kind, ErrorKind::kUnsupported);
}

TEST_F(FileDiskTest, ASecondOpenIsBusyUntilTheFirstIsClosed) {
  const std::string path = folder_.make_image("disk.img", 1 << 20);
  auto first = open(path);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(open(path).error().kind, ErrorKind::kBusy);
  first->reset();
  EXPECT_TRUE(open(path).has_value());
}

TEST_F(FileDiskTest, AFileInMemoryAcceptsAnyAlignment) {
  const testing::MemoryFile file(1 << 20);
  const auto disk = open(file.path());
  ASSERT_TRUE(disk.has_value()) << disk.error().to_string();
  EXPECT_EQ((*disk)->limits().memory_alignment, 1u);
}

TEST_F(FileDiskTest, ALoopDeviceReportsItsLargeBlocks) {
  const testing::LoopDevice device(folder_.make_image("disk.img", 1 << 20), 4096);
  if (device.path().empty()) GTEST_SKIP() << "no loop devices without root";
  const auto disk = open(device.path());
  ASSERT_TRUE(disk.has_value()) << disk.error().to_string();
  EXPECT_EQ((*disk)->limits().offset_alignment, 4096u);
  EXPECT_EQ((*disk)->info().physical_block_size, ByteCount(4096));
  EXPECT_EQ((*disk)->info().block_size, ByteCount(512));
  EXPECT_TRUE((*disk)->info().discard.has_value());
}

TEST_F(FileDiskTest, APartialLastSectorIsHiddenAndKept) {
  const auto disk = open(folder_.make_image("disk.img", 4096 + 100));
  ASSERT_TRUE(disk.has_value());
  EXPECT_EQ((*disk)->info().size, ByteCount(4096));
}

TEST_F(FileDiskTest, AnImageClaimedWhileInUseIsFreeForOthersOtherwise) {
  const std::string path = folder_.make_image("disk.img", 1 << 20);
  const FileDiskOptions options{.path = path, .claim_mode = ClaimMode::kWhileInUse};
  const auto source = FileDisk::open(options);
  const auto destination = FileDisk::open(options);
  ASSERT_TRUE(source.has_value() && destination.has_value());
  ASSERT_TRUE((*source)->claim());
  ASSERT_TRUE((*source)->claim()) << "idempotent";
  EXPECT_EQ((*destination)->claim().error().kind, ErrorKind::kBusy);
  EXPECT_EQ(FileDisk::open({.path = path}).error().kind, ErrorKind::kBusy) << "nor while open";
  (*source)->release();
  EXPECT_TRUE((*destination)->claim());
  EXPECT_EQ((*source)->claim().error().kind, ErrorKind::kBusy);
}

TEST_F(FileDiskTest, InvalidBlockSizesAreRefused) {
  const std::string path = folder_.make_image("disk.img", 1 << 20);
  for (const std::uint64_t size : {0U, 100U, 513U, 8192U}) {
    EXPECT_EQ(FileDisk::open({.path = path, .block_size = ByteCount(size)}).error().kind,
              ErrorKind::kInvalidArgument);
  }
}

TEST_F(FileDiskTest, ProbingModifiesNothing) {
  const std::string path = folder_.make_image("disk.img", 1 << 20);
  ASSERT_TRUE(open(path).has_value());
  struct ::stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 1 << 20);
  EXPECT_EQ(status.st_blocks, 0);
}

}  // namespace
}  // namespace guestio::disk
