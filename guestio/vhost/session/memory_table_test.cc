// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/memory_table.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>

#include "guestio/vhost/wire/message_socket.h"

namespace guestio::vhost {
namespace {

constexpr std::uint64_t kFrontendBase = 0x7f0000000000;

class MemoryTableTest : public ::testing::Test {
 protected:
  MemoryTableTest() : file_(::memfd_create("memory-table-test", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(file_.get(), 65536), 0);
  }
  /// Maps regions of the file, with descriptors received in a message.
  Result<std::shared_ptr<const MemoryTable>> map(std::span<const MemoryRegion> regions,
                                                 std::size_t descriptors) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
    MessageSocket sender{UniqueFd(ends[0])};
    MessageSocket receiver{UniqueFd(ends[1])};
    const std::vector<int> fds(descriptors, file_.get());
    const auto deadline = Deadline::clock::now() + std::chrono::seconds(60);
    EXPECT_TRUE(sender.send(1, kMessageVersion, {}, fds, deadline));
    Message message;
    EXPECT_TRUE(receiver.receive(message, deadline));
    return MemoryTable::map(regions, message.descriptors);
  }
  UniqueFd file_;
};

TEST_F(MemoryTableTest, FindsMemoryByFrontEndAddress) {
  const std::array regions = {MemoryRegion{0, 4096, kFrontendBase, 0},
                              MemoryRegion{1 << 20, 8192, kFrontendBase + 65536, 4096}};
  const auto table = map(regions, 2);
  ASSERT_TRUE(table.has_value()) << table.error().to_string();
  ASSERT_EQ(::pwrite(file_.get(), "guest", 5, 4096 + 100), 5);
  const auto found = (*table)->find(FrontendAddress(kFrontendBase + 65536 + 100), 5);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(*found), 5), "guest");
}

TEST_F(MemoryTableTest, FindsNothingAcrossTheEndOfARegion) {
  const std::array regions = {MemoryRegion{0, 4096, kFrontendBase, 0},
                              MemoryRegion{4096, 4096, kFrontendBase + 4096, 4096}};
  const auto table = map(regions, 2);
  ASSERT_TRUE(table.has_value());
  EXPECT_TRUE((*table)->find(FrontendAddress(kFrontendBase + 4095), 1).has_value());
  EXPECT_FALSE((*table)->find(FrontendAddress(kFrontendBase + 4095), 2).has_value());
  EXPECT_FALSE((*table)->find(FrontendAddress(kFrontendBase - 1), 1).has_value());
  EXPECT_FALSE((*table)->find(FrontendAddress(~std::uint64_t{0}), 1).has_value());
}

TEST_F(MemoryTableTest, RequiresOneDescriptorForEachRegion) {
  const std::array regions = {MemoryRegion{0, 4096, kFrontendBase, 0}};
  EXPECT_FALSE(map(regions, 0).has_value());
  EXPECT_FALSE(map(regions, 2).has_value());
  EXPECT_FALSE(map({}, 0).has_value());
}

}  // namespace
}  // namespace guestio::vhost
