// SPDX-License-Identifier: MIT
#include "guestio/base/align.h"

#include <gtest/gtest.h>

namespace guestio {
namespace {

constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();

TEST(Align, RoundsToPowersOfTwo) {
  EXPECT_EQ(align_down(std::uint64_t{4097}, 4096), 4096u);
  EXPECT_EQ(align_up(std::uint64_t{4097}, 4096), 8192u);
  EXPECT_EQ(align_up(std::uint64_t{4096}, 4096), 4096u);
  EXPECT_TRUE(is_aligned(std::uint64_t{0}, 512));
  EXPECT_FALSE(is_aligned(std::uint64_t{513}, 512));
}

TEST(Align, OverflowingSumsAndProductsAreNullopt) {
  EXPECT_EQ(checked_add(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_add(kMax, 0), kMax);
  EXPECT_EQ(checked_mul(kMax, 2), std::nullopt);
  EXPECT_EQ(checked_mul(std::uint64_t{3}, 4), 12u);
}

TEST(Align, ARangeFitsOnlyWhenItsEndDoesNotOverflow) {
  EXPECT_TRUE(fits_within(10, 0, 10));
  EXPECT_FALSE(fits_within(11, 0, 10));
  EXPECT_FALSE(fits_within(1, kMax, 10));
  EXPECT_TRUE(fits_within(0, kMax, kMax));
}

}  // namespace
}  // namespace guestio
