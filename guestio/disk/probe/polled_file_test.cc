// SPDX-License-Identifier: MIT
// Devices with polled completions are rare: these tests hold with and without one.
#include "guestio/disk/probe/polled_file.h"

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

constexpr std::uint64_t kPolledBytes = std::uint64_t{1} << 20;
constexpr std::byte kWritten{0x5a};

class PolledFileTest : public ::testing::Test {
 protected:
  void write_half() {
    const UniqueFd file(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    const std::vector<std::byte> content(kPolledBytes / 2, kWritten);
    ASSERT_EQ(::pwrite(file.get(), content.data(), content.size(), kPolledBytes / 2),
              static_cast<ssize_t>(content.size()));
    ASSERT_EQ(::fsync(file.get()), 0);
  }
  UniqueFd open_direct() { return UniqueFd(::open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC)); }

  testing::TemporaryDirectory folder_;
  std::string path_ = folder_.make_image("disk.img", kPolledBytes);
};

TEST_F(PolledFileTest, AFileOfHolesIsNotPolled) {
  const UniqueFd file = open_direct();
  const auto able = check_polled_reads(file.get(), kPolledBytes, 512);
  ASSERT_FALSE(able);
  EXPECT_EQ(able.error().kind, ErrorKind::kUnsupported);
}

TEST_F(PolledFileTest, TheResultIsThatOfAWrittenBlock) {
  write_half();
  const UniqueFd file = open_direct();
  const auto able = check_polled_reads(file.get(), kPolledBytes, 512);
  const Error error = able ? Error::make(ErrorKind::kUnsupported, "") : able.error();
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported) << error.to_string();
  const testing::MemoryFile memory(kPolledBytes);
  ASSERT_EQ(::pwrite(memory.fd(), "x", 1, 0), 1);
  EXPECT_FALSE(check_polled_reads(memory.fd(), kPolledBytes, 1)) << "memory has no device";
}

TEST_F(PolledFileTest, APolledDiskReadsBackItsBytesEvenWithoutPolling) {
  write_half();
  const auto loop = uring::Loop::create().value();
  const auto disk = FileDisk::open({.path = path_, .completion = Completion::kPolled}).value();
  const bool is_able = check_polled_reads(open_direct().get(), kPolledBytes, 512).has_value();
  EXPECT_EQ(disk->completion(), is_able ? Completion::kPolled : Completion::kInterrupt);
  const auto channel = disk->open_channel(*loop, ByteCount(kPolledBytes)).value();
  const auto memory = mem::GuestMemory::allocate(ByteCount(kPolledBytes)).value();
  const std::array extents = {
      mem::AddressRange::from_start_and_length(Gpa(0), kPolledBytes).value()};
  test::NotedIo io;
  io.kind = IoKind::kRead;
  io.buffers =
      buf::RequestBuffers::from_extents(memory, extents, buf::MemoryAccess::kWritable).value();
  io.length = kPolledBytes;
  channel->start(io);
  loop->run_until_idle();
  ASSERT_TRUE(io.result.has_value()) << io.result.error().to_string();
  const std::byte* const bytes = memory.host_range(Gpa(0), kPolledBytes).value();
  EXPECT_EQ(bytes[0], std::byte{0});
  EXPECT_EQ(bytes[kPolledBytes / 2], kWritten);
  EXPECT_EQ(bytes[kPolledBytes - 1], kWritten);
}

TEST_F(PolledFileTest, ABufferedFileIsNotPolled) {
  write_half();
  const auto disk =
      FileDisk::open(
          {.path = path_, .caching = Caching::kBuffered, .completion = Completion::kPolled})
          .value();
  EXPECT_EQ(disk->completion(), Completion::kInterrupt);
}

}  // namespace
}  // namespace guestio::disk
