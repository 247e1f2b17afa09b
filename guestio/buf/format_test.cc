// SPDX-License-Identifier: MIT
#include "guestio/buf/format.h"

#include <gtest/gtest.h>

namespace guestio::buf {
namespace {

TEST(Format, ARequestShowsItsDirectionAndItsBytes) {
  const auto owned = *OwnedRequestBuffers::linear(Gpa(0x1000), 0x1000);
  EXPECT_EQ(fmt::format("{}", owned), "writable [0x1000, 0x2000)");
  const mem::GuestMemory memory;
  EXPECT_EQ(fmt::format("{}", owned.buffers(memory).subrange(8, 8)), "writable [0x1008, 0x1010)");
  EXPECT_EQ(fmt::format("{}", RequestBuffers()), "read-only [0x0, 0x0)");
}

TEST(Format, StatisticsShowEveryCount) {
  const BounceStatistics counts{.grants = 12,
                                .waits = 3,
                                .cancelled = 1,
                                .wait_time = std::chrono::microseconds(150),
                                .longest_wait = std::chrono::microseconds(80),
                                .high_water = ByteCount(131072)};
  EXPECT_EQ(fmt::format("{}", counts),
            "12 grants, 3 waits (1 cancelled, 150 us in all, 80 us the longest), at most 131072 "
            "bytes");
}

}  // namespace
}  // namespace guestio::buf
