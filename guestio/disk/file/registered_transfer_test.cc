// SPDX-License-Identifier: MIT
// Transfers to and from memory registered with the loop's ring. Memory that is truncated and
// extended tells registered operations from plain ones: the former use the old pages, the latter
// the new ones.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <vector>

#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/file/test/noted_io.h"
#include "guestio/mem/mapped_memory.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

constexpr std::uint64_t kBytes = std::uint64_t{1} << 20;
constexpr std::byte kContent{0x5a};

class RegisteredTransferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const UniqueFd image(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    const std::vector<std::byte> content(kBytes, kContent);
    ASSERT_EQ(::pwrite(image.get(), content.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
    disk_ = FileDisk::open({.path = path_}).value();
    channel_ = disk_->open_channel(*loop_, ByteCount(kBytes)).value();
    const std::array regions = {
        mem::FileRegion{Gpa(0), ByteCount(kBytes), file_.fd(), FileOffset(0)}};
    memory_ = mem::map_file_regions(regions).value();
  }
  std::span<std::byte> host() const { return {memory_.host_range(Gpa(0), kBytes).value(), kBytes}; }
  auto register_memory() { return loop_->registered_buffers().add(host()).value(); }
  /// Replaces all pages by zeroed ones.
  void replace_pages() {
    ASSERT_EQ(::ftruncate(file_.fd(), 0), 0);
    ASSERT_EQ(::ftruncate(file_.fd(), static_cast<off_t>(kBytes)), 0);
  }
  Result<> read(std::span<const mem::AddressRange> extents) {
    test::NotedIo io;
    io.kind = IoKind::kRead;
    io.buffers =
        buf::RequestBuffers::from_extents(memory_, extents, buf::MemoryAccess::kWritable).value();
    io.length = io.buffers.size();
    channel_->start(io);
    loop_->run_until_idle();
    return io.result;
  }
  static mem::AddressRange range(std::uint64_t start, std::uint64_t length) {
    return mem::AddressRange::from_start_and_length(Gpa(start), length).value();
  }

  testing::TemporaryDirectory folder_;
  std::string path_ = folder_.make_image("disk.img", kBytes);
  testing::MemoryFile file_{kBytes};
  std::unique_ptr<uring::Loop> loop_ = uring::Loop::create().value();
  std::unique_ptr<FileDisk> disk_;
  std::unique_ptr<Channel> channel_;
  mem::GuestMemory memory_;
};

TEST_F(RegisteredTransferTest, OneSegmentInARegionGoesToTheRegisteredPages) {
  const auto registration = register_memory();
  const std::array extents = {range(0, 4096)};
  ASSERT_TRUE(read(extents));
  EXPECT_EQ(host()[0], kContent);
  replace_pages();
  ASSERT_TRUE(read(extents));
  EXPECT_EQ(host()[0], std::byte{0});
}

TEST_F(RegisteredTransferTest, ListsGoToTheRegisteredPagesIfTheKernelSupportsThem) {
  const auto registration = register_memory();
  replace_pages();
  const std::array extents = {range(65536, 4096), range(0, 4096)};
  ASSERT_TRUE(read(extents));
  EXPECT_EQ(host()[0],
            loop_->registered_buffers().supports_vectored_fixed() ? std::byte{0} : kContent);
}

TEST_F(RegisteredTransferTest, UnregisteredMemoryUsesPlainOperations) {
  auto registration = register_memory();
  replace_pages();
  registration = {};
  const std::array extents = {range(0, 4096), range(8192, 4096)};
  ASSERT_TRUE(read(extents));
  EXPECT_EQ(host()[0], kContent);
  EXPECT_EQ(host()[8192], kContent);
}

TEST_F(RegisteredTransferTest, SegmentsInTwoRegionsUsePlainOperations) {
  const auto low = loop_->registered_buffers().add(host().first(kBytes / 2)).value();
  const auto high = loop_->registered_buffers().add(host().subspan(kBytes / 2)).value();
  replace_pages();
  const std::array in_both = {range(0, 4096), range(kBytes - 4096, 4096)};
  ASSERT_TRUE(read(in_both));
  EXPECT_EQ(host()[0], kContent);
  EXPECT_EQ(host()[kBytes - 1], kContent);
  replace_pages();
  const std::array across = {range(kBytes / 2 - 4096, 8192)};
  ASSERT_TRUE(read(across));
  EXPECT_EQ(host()[kBytes / 2], kContent);
}

}  // namespace
}  // namespace guestio::disk
