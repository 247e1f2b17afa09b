// SPDX-License-Identifier: MIT
// guestio-blk on failing disks: full file systems, files with a size limit.
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

namespace vblk = virtio::blk;
using namespace std::chrono_literals;
using Type = testing::BlkGuest::Type;
using Segment = virtio::DriverSegment;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;
constexpr std::uint8_t kOk = 0;
constexpr std::uint8_t kIoError = 1;
constexpr auto kPatience = 60s;
constexpr const char* kHeld = "requests held pending retry";

class DiskFaultTest : public BackendTest {
 protected:
  /// Limits the size of files the backend may write. The image's first `bytes` stay writable.
  void limit_files(rlim_t bytes) const {
    const rlimit limit{.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
    ASSERT_EQ(::prlimit(backend_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  }

  /// Submits a write of 1 MiB of `value` at `sector` without waiting.
  void begin_write(testing::BlkGuest& guest, std::uint64_t sector, std::byte value) {
    const vhost::SharedRange memory = guest.scratch();
    const vblk::RequestHeader header{Type::kOut, 0, sector};
    std::memcpy(memory.host, &header, sizeof header);
    std::fill_n(memory.host + 4096, kMegabyte, value);
    memory.host[64] = std::byte{0xff};
    const std::array chain = {
        Segment{memory.gpa, sizeof header, virtio::Direction::kReadable},
        Segment{memory.gpa.plus_unchecked(4096), kMegabyte, virtio::Direction::kReadable},
        Segment{memory.gpa.plus_unchecked(64), 1, virtio::Direction::kWritable}};
    ASSERT_TRUE(guest.queue().ring().add(chain));
    const auto wants_kick = guest.queue().ring().publish();
    ASSERT_TRUE(wants_kick);
    ASSERT_TRUE(!*wants_kick || guest.queue().kick());
  }
  /// Waits for that write. Returns its status.
  std::uint8_t finish_write(testing::BlkGuest& guest) {
    EXPECT_EQ(guest.wait_for_used(0, kPatience), 1u) << backend_->output();
    return std::to_integer<std::uint8_t>(guest.scratch().host[64]);
  }
  std::unique_ptr<testing::BlkGuest> start_with_held_write() {
    start({"--on-error", "hold"});
    limit_files(kMegabyte);
    auto guest = connect();
    begin_write(*guest, 4096, std::byte{7});
    EXPECT_TRUE(backend_->wait_for_output(kHeld, kPatience)) << backend_->output();
    EXPECT_EQ(guest->wait_for_used(0, 0ms), std::nullopt);
    return guest;
  }
};

TEST_F(DiskFaultTest, Rule37AFileSizeLimitFailsOnlyWritesBeyondIt) {
  start();
  limit_files(kMegabyte);
  const auto guest = connect();
  EXPECT_EQ(guest->write(4096, std::vector<std::byte>(4096)).status, kIoError);
  EXPECT_EQ(guest->write(0, std::vector<std::byte>(4096)).status, kOk);
  EXPECT_EQ(guest->write(2 * 1024 - 8, std::vector<std::byte>(8192)).status, kIoError)
      << "the rest of a short write is submitted again and fails";
  EXPECT_EQ(guest->read(4096, 4096).status, kOk);
  EXPECT_EQ(guest->flush().status, kOk);
  stop();
}

TEST_F(DiskFaultTest, AHeldWriteCompletesOnRetry) {
  const auto guest = start_with_held_write();
  limit_files(RLIM_INFINITY);
  backend_->send_signal(SIGUSR1);
  EXPECT_EQ(finish_write(*guest), kOk);
  EXPECT_EQ(guest->read(4096, 4096).data, std::vector<std::byte>(4096, std::byte{7}));
  EXPECT_TRUE(backend_->wait_for_output("asked to retry held requests"));
  EXPECT_TRUE(backend_->wait_for_output("no request is held"));
}

TEST_F(DiskFaultTest, AHeldWriteFailsOnTheOperatorsRequest) {
  const auto guest = start_with_held_write();
  backend_->send_signal(SIGUSR2);
  EXPECT_EQ(finish_write(*guest), kIoError);
  EXPECT_EQ(guest->read(0, 4096).status, kOk);
}

TEST_F(DiskFaultTest, Rule14AHeldWriteDoesNotBlockGetVringBase) {
  const auto guest = start_with_held_write();
  ASSERT_TRUE(guest->queue().stop(guest->frontend()));
  EXPECT_EQ(std::to_integer<std::uint8_t>(guest->scratch().host[64]), kIoError);
}

TEST_F(DiskFaultTest, AHeldWriteDoesNotBlockExit) {
  const auto guest = start_with_held_write();
  stop();
  EXPECT_EQ(std::to_integer<std::uint8_t>(guest->scratch().host[64]), kIoError);
}

TEST_F(DiskFaultTest, AHeldWriteDoesNotBlockTheNextFrontEnd) {
  start_with_held_write().reset();
  expect_alive();
}

TEST_F(DiskFaultTest, Rule37AFullFileSystemFailsWritesOrHoldsThemUntilSpaceIsFree) {
  const testing::TmpfsMount small(folder_.file("small"), 4 * kMegabyte);
  if (small.path().empty()) GTEST_SKIP() << "mounting is not permitted";
  const auto full_image = [&] {
    image_ = small.path() + "/disk.img";
    std::filesystem::remove(image_);
    const UniqueFd image(::open(image_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    const UniqueFd filler(::open((small.path() + "/filler").c_str(), O_RDWR | O_CREAT, 0600));
    return ::ftruncate(image.get(), kImageBytes) == 0 &&
           ::posix_fallocate(filler.get(), 0, 7 * kMegabyte / 2) == 0;
  };
  ASSERT_TRUE(full_image());
  start();
  {
    const auto guest = connect();
    begin_write(*guest, 0, std::byte{1});
    EXPECT_EQ(finish_write(*guest), kIoError) << "half of it does not fit";
    EXPECT_EQ(guest->read(4096, 4096).status, kOk);
  }
  stop();
  ASSERT_TRUE(full_image());
  start({"--on-error", "enospc"});
  const auto guest = connect();
  begin_write(*guest, 0, std::byte{2});
  ASSERT_TRUE(backend_->wait_for_output(kHeld, kPatience)) << backend_->output();
  std::filesystem::remove(small.path() + "/filler");
  EXPECT_EQ(finish_write(*guest), kOk);
  EXPECT_EQ(guest->read(0, kMegabyte).data, std::vector<std::byte>(kMegabyte, std::byte{2}));
  stop();
}

// A buffered device on full storage: only the flush reports the error, and only once.
TEST_F(DiskFaultTest, Rule30AllLaterFlushesFailAfterAFailedOne) {
  const testing::TmpfsMount small(folder_.file("small"), 2 * kMegabyte);
  if (small.path().empty()) GTEST_SKIP() << "mounting is not permitted";
  const std::string storage = small.path() + "/storage";
  {
    const UniqueFd file(::open(storage.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(file.get(), kImageBytes), 0);
  }
  const testing::LoopDevice device(storage, 512);
  if (device.path().empty()) GTEST_SKIP() << "no loop devices available";
  image_ = device.path();
  start({"--buffered", "--on-error", "hold"});
  {
    const auto guest = connect();
    for (std::uint64_t megabyte = 0; megabyte < 4; ++megabyte) {
      begin_write(*guest, megabyte * 2048, std::byte{3});
      ASSERT_EQ(finish_write(*guest), kOk) << "into the cache";
    }
    EXPECT_EQ(guest->flush().status, kIoError);
    EXPECT_EQ(guest->flush().status, kIoError) << "the kernel reports success the second time";
    EXPECT_EQ(guest->read(0, 4096).status, kOk);
  }
  stop();
}

// The kernel refuses to discard or zero ranges with dirty pages (EBUSY).
TEST_F(DiskFaultTest, Rule50WriteZeroesAndDiscardSucceedOnABufferedDevice) {
  const testing::LoopDevice device(image_, 512);
  if (device.path().empty()) GTEST_SKIP() << "no loop devices available";
  image_ = device.path();
  start({"--buffered"});
  const auto guest = connect();
  const auto change = [&](Type type) {
    const vblk::RangeSegment range{.sector = 3, .num_sectors = 1024, .flags = 0};
    return guest->perform(type, 0, std::as_bytes(std::span(&range, 1)), 0).status;
  };
  const std::vector<std::byte> ones(kMegabyte, std::byte{1});
  ASSERT_EQ(guest->write(0, ones).status, kOk);
  EXPECT_EQ(change(Type::kDiscard), kOk);
  ASSERT_EQ(guest->write(0, ones).status, kOk);
  EXPECT_EQ(change(Type::kWriteZeroes), kOk);
  std::vector<std::byte> expected = ones;
  std::fill_n(expected.begin() + 3 * 512, 1024 * 512, std::byte{0});
  EXPECT_EQ(guest->read(0, kMegabyte).data, expected);
  EXPECT_EQ(guest->flush().status, kOk);
  stop();
}

}  // namespace
}  // namespace guestio::tests
