// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/misaligned_transfers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/probe/file_limits.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

constexpr std::uint64_t kZramBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kOnZramBytes = std::uint64_t{16} << 20;
constexpr std::size_t kPatternBytes = 4 * kPageSize;

UniqueFd open_direct(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
}

/// Writes bytes that differ from their neighbours, from whole pages.
void write_pattern(int fd) {
  auto pages = Mapping::anonymous(kPatternBytes).value();
  for (std::size_t i = 0; i < kPatternBytes; ++i) {
    pages.data()[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
  }
  ASSERT_EQ(::pwrite(fd, pages.data(), kPatternBytes, 0), static_cast<ssize_t>(kPatternBytes));
}

/// Whether a read to memory 512 bytes after a page boundary returns that pattern.
bool reads_right(int fd) {
  auto pages = Mapping::anonymous(kPatternBytes + kPageSize).value();
  const auto to = pages.bytes().subspan(512, kPatternBytes);
  EXPECT_EQ(::pread(fd, to.data(), to.size(), 0), static_cast<ssize_t>(kPatternBytes));
  for (std::size_t i = 0; i < kPatternBytes; ++i) {
    if (to[i] != static_cast<std::byte>((i * 2654435761U) >> 13)) return false;
  }
  return true;
}

std::string make_file_of_holes(const std::string& path) {
  std::ofstream(path) << "";
  std::filesystem::resize_file(path, kOnZramBytes);
  return path;
}

class MisalignedTransfersTest : public ::testing::Test {
 protected:
  testing::TemporaryDirectory folder_;
};

TEST_F(MisalignedTransfersTest, AFileAndALoopDeviceOnItAreNotOnZram) {
  const auto path = folder_.make_image("disk.img", kOnZramBytes);
  const UniqueFd file = open_direct(path);
  write_pattern(file.get());
  EXPECT_FALSE(is_on_zram(file.get()));
  EXPECT_FALSE(corrupts_misaligned_reads(file.get(), probe_file(file.get())->direct, kOnZramBytes));
  const testing::LoopDevice loop(path, 512);
  if (loop.path().empty()) GTEST_SKIP() << "this machine gives no loop devices";
  const UniqueFd device = open_direct(loop.path());
  EXPECT_FALSE(is_on_zram(device.get()));
  EXPECT_EQ(probe_file(device.get())->direct.memory_alignment, 512U);
}

TEST_F(MisalignedTransfersTest, AHoleAndATinyFileGiveNoResult) {
  const UniqueFd hole = open_direct(folder_.make_image("hole.img", kOnZramBytes));
  const buf::DirectIoLimits limits{
      .memory_alignment = 512, .length_alignment = 512, .offset_alignment = 512};
  EXPECT_FALSE(corrupts_misaligned_reads(hole.get(), limits, kOnZramBytes));
  const UniqueFd tiny = open_direct(folder_.make_image("tiny.img", 512));
  EXPECT_FALSE(corrupts_misaligned_reads(tiny.get(), limits, 512));
}

TEST_F(MisalignedTransfersTest, ZramAndStorageOnItNeedPageAlignment) {
  const testing::ZramDevice zram(folder_, kZramBytes);
  if (zram.path().empty()) GTEST_SKIP() << "this machine gives no zram";
  const auto alignment = [](const std::string& path) {
    const UniqueFd fd = open_direct(path);
    EXPECT_TRUE(is_on_zram(fd.get())) << path;
    return probe_file(fd.get())->direct.memory_alignment;
  };
  EXPECT_EQ(alignment(zram.path()), kPageSize);
  {
    const testing::LoopDevice loop(zram.path(), 4096);
    ASSERT_FALSE(loop.path().empty());
    EXPECT_EQ(alignment(loop.path()), kPageSize);
  }
  const testing::MountedExt4 mounted(zram.path(), folder_.file("mounted"));
  if (mounted.path().empty()) GTEST_SKIP() << "this machine mounts no ext4";
  const std::string file = make_file_of_holes(mounted.path() + "/disk.img");
  EXPECT_EQ(alignment(file), kPageSize);
  const testing::LoopDevice loop(file, 4096);
  ASSERT_FALSE(loop.path().empty());
  EXPECT_EQ(alignment(loop.path()), kPageSize);
  for (const char* const layer : {"/lower", "/upper", "/work"}) {
    std::filesystem::create_directory(mounted.path() + layer);
  }
  const std::string overlay = folder_.file("overlay");
  std::filesystem::create_directory(overlay);
  const std::string layers = "lowerdir=" + mounted.path() + "/lower,upperdir=" + mounted.path() +
                             "/upper,workdir=" + mounted.path() + "/work";
  if (::mount("overlay", overlay.c_str(), "overlay", 0, layers.c_str()) != 0) {
    GTEST_SKIP() << "this machine mounts no overlay";
  }
  EXPECT_EQ(alignment(make_file_of_holes(overlay + "/disk.img")), kPageSize);
  EXPECT_EQ(::umount2(overlay.c_str(), MNT_DETACH), 0);
}

TEST_F(MisalignedTransfersTest, ATrialFindsCorruptedReads) {
  const testing::ZramDevice zram(folder_, kZramBytes);
  if (zram.path().empty()) GTEST_SKIP() << "this machine gives no zram";
  const UniqueFd device = open_direct(zram.path());
  const buf::DirectIoLimits limits{
      .memory_alignment = 512, .length_alignment = 4096, .offset_alignment = 4096};
  write_pattern(device.get());
  EXPECT_EQ(corrupts_misaligned_reads(device.get(), limits, kZramBytes),
            !reads_right(device.get()));
}

}  // namespace
}  // namespace guestio::disk
