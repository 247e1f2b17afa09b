// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/cpu_list.h"

#include <gtest/gtest.h>

#include <array>

namespace guestio::app {
namespace {

using Cpus = std::vector<int>;

TEST(CpuList, NumbersRangesAndStridesAreReadInTheirOrder) {
  EXPECT_EQ(parse_cpu_list("2"), Cpus({2}));
  EXPECT_EQ(parse_cpu_list("3,2"), Cpus({3, 2}));
  EXPECT_EQ(parse_cpu_list("0-3"), Cpus({0, 1, 2, 3}));
  EXPECT_EQ(parse_cpu_list("0-6:2"), Cpus({0, 2, 4, 6}));
  EXPECT_EQ(parse_cpu_list("1-6:4,9,0-1"), Cpus({1, 5, 9, 0, 1}));
  EXPECT_EQ(parse_cpu_list("5-5"), Cpus({5}));
}

TEST(CpuList, MalformedListsAreRefused) {
  for (const char* text : {"", ",", "1,", ",1", "x", "-1", "1-", "3-1", "1-3:", "1-3:0", "1:2",
                           "1 2", "0-3-5", "70000", "0-99999999999", "1.5", "0x1"}) {
    EXPECT_FALSE(parse_cpu_list(text).has_value()) << text;
  }
}

TEST(CpuList, RunsAreFormattedAsRanges) {
  EXPECT_EQ(format_cpu_list(Cpus()), "");
  EXPECT_EQ(format_cpu_list(Cpus({0})), "0");
  EXPECT_EQ(format_cpu_list(Cpus({0, 1, 2, 3, 8, 10, 11})), "0-3,8,10-11");
}

TEST(CpuList, ProcessorsOutsideTheAffinityOfTheProcessAreRefused) {
  const Cpus allowed = allowed_cpus();
  ASSERT_FALSE(allowed.empty());
  EXPECT_TRUE(check_cpus(allowed).has_value());
  const auto refused = check_cpus(std::array{allowed.front(), 60000});
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().find("60000, which does not exist"), std::string::npos)
      << refused.error();
}

}  // namespace
}  // namespace guestio::app
