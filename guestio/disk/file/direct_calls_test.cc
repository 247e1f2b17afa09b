// SPDX-License-Identifier: MIT
#include "guestio/disk/file/direct_calls.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "guestio/base/unique_fd.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

constexpr std::uint64_t kFileBytes = std::uint64_t{1} << 20;
constexpr auto kSlow = std::chrono::milliseconds(5);
constexpr auto kQuick = std::chrono::microseconds(1);

TEST(DirectCalls, AreFasterForAFileInMemory) {
  const testing::MemoryFile file(kFileBytes);
  EXPECT_TRUE(are_direct_calls_faster(file.fd(), kFileBytes, 1));
}

TEST(DirectCalls, AreNotFasterForAFileWithNonblockingReads) {
  const testing::TemporaryDirectory folder;
  const auto path = folder.make_image("disk.img", kFileBytes);
  const UniqueFd direct(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(direct);
  EXPECT_FALSE(are_direct_calls_faster(direct.get(), kFileBytes, 512));
  const UniqueFd buffered(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(are_direct_calls_faster(buffered.get(), kFileBytes, 1));
}

TEST(DirectCalls, AreNotFasterForAnUnreadableFile) {
  const testing::MemoryFile file(kFileBytes);
  EXPECT_FALSE(are_direct_calls_faster(file.fd(), 512, 1)) << "too small to tell";
  EXPECT_FALSE(are_direct_calls_faster(-1, kFileBytes, 1));
}

TEST(DirectCalls, AreNotMadeUnlessFaster) {
  DirectCalls calls;
  for (int i = 0; i < 10'000; ++i) ASSERT_FALSE(calls.should_call(4096));
}

TEST(DirectCalls, ASlowFileGetsTheRingAndALaterTrial) {
  DirectCalls calls(true);
  ASSERT_TRUE(calls.should_call(4096));
  calls.record(kQuick, 4096);
  ASSERT_TRUE(calls.should_call(4096));
  calls.record(kSlow, 4096);
  int skipped = 0;
  while (!calls.should_call(4096)) ++skipped;
  EXPECT_EQ(skipped, 4096);
  calls.record(kQuick, 4096);
  EXPECT_TRUE(calls.should_call(4096));
}

TEST(DirectCalls, ALargeTransferHasALongerLimit) {
  DirectCalls calls(true);
  calls.record(std::chrono::microseconds(100), std::uint64_t{1} << 20);
  EXPECT_TRUE(calls.should_call(4096));
  calls.record(std::chrono::microseconds(100), 4096);
  EXPECT_FALSE(calls.should_call(4096));
}

TEST(DirectCalls, AreNotMadeAboveOneMebibyte) {
  DirectCalls calls(true);
  EXPECT_TRUE(calls.should_call(std::uint64_t{1} << 20));
  EXPECT_FALSE(calls.should_call((std::uint64_t{1} << 20) + 1));
}

TEST(DirectCalls, OneInSixteenIsTimed) {
  DirectCalls calls(true);
  int timed = 0;
  for (int i = 0; i < 1600; ++i) timed += calls.should_time() ? 1 : 0;
  EXPECT_EQ(timed, 100);
}

}  // namespace
}  // namespace guestio::disk
