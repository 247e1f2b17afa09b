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

TEST(DirectCalls, PayForAFileInMemory) {
  const testing::MemoryFile file(kFileBytes);
  EXPECT_TRUE(are_direct_calls_faster(file.fd(), kFileBytes, 1));
}

TEST(DirectCalls, DoNotPayForAFileThatCanDoWithoutWaiting) {
  const testing::TemporaryDirectory folder;
  const auto path = folder.make_image("disk.img", kFileBytes);
  const UniqueFd direct(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(direct);
  EXPECT_FALSE(are_direct_calls_faster(direct.get(), kFileBytes, 512));
  const UniqueFd buffered(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(are_direct_calls_faster(buffered.get(), kFileBytes, 1));
}

TEST(DirectCalls, DoNotPayForWhatCannotBeRead) {
  const testing::MemoryFile file(kFileBytes);
  EXPECT_FALSE(are_direct_calls_faster(file.fd(), 512, 1)) << "too small to tell";
  EXPECT_FALSE(are_direct_calls_faster(-1, kFileBytes, 1));
}

TEST(DirectCalls, AreNotMadeUnlessTheyPay) {
  DirectCalls calls;
  for (int i = 0; i < 10'000; ++i) ASSERT_FALSE(calls.wanted(4096));
}

TEST(DirectCalls, AFileThatTurnsSlowGetsTheRingAndAnotherTrialLater) {
  DirectCalls calls(true);
  ASSERT_TRUE(calls.wanted(4096));
  calls.note(kQuick, 4096);
  ASSERT_TRUE(calls.wanted(4096));
  calls.note(kSlow, 4096);
  int skipped = 0;
  while (!calls.wanted(4096)) ++skipped;
  EXPECT_EQ(skipped, 4096);
  calls.note(kQuick, 4096);
  EXPECT_TRUE(calls.wanted(4096));
}

TEST(DirectCalls, ALargeTransferMayTakeLonger) {
  DirectCalls calls(true);
  calls.note(std::chrono::microseconds(100), std::uint64_t{1} << 20);
  EXPECT_TRUE(calls.wanted(4096));
  calls.note(std::chrono::microseconds(100), 4096);
  EXPECT_FALSE(calls.wanted(4096));
}

TEST(DirectCalls, AreNotMadeForMoreThanAMegabyte) {
  DirectCalls calls(true);
  EXPECT_TRUE(calls.wanted(std::uint64_t{1} << 20));
  EXPECT_FALSE(calls.wanted((std::uint64_t{1} << 20) + 1));
}

TEST(DirectCalls, OneInSixteenIsTimed) {
  DirectCalls calls(true);
  int timed = 0;
  for (int i = 0; i < 1600; ++i) timed += calls.wants_time() ? 1 : 0;
  EXPECT_EQ(timed, 100);
}

}  // namespace
}  // namespace guestio::disk
