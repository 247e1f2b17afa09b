// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/cpu_occupancy.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace guestio::vhost {
namespace {

/// Runs `function` on a thread pinned to one processor.
template <typename Function>
void on_one_processor(Function function) {
  std::thread([&function] {
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &here);
    ASSERT_EQ(::sched_setaffinity(0, sizeof here, &here), 0);
    function();
  }).join();
}

TEST(CpuOccupancy, IsNotAloneWhileAnotherThreadIsAwakeOnTheProcessor) {
  on_one_processor([] {
    CpuOccupancy first;
    CpuOccupancy second;
    first.enter();
    EXPECT_TRUE(first.is_alone());
    second.enter();
    EXPECT_FALSE(first.is_alone());
    EXPECT_FALSE(second.is_alone());
    second.leave();
    EXPECT_TRUE(first.is_alone());
  });
}

TEST(CpuOccupancy, EnteringAndLeavingAreIdempotent) {
  on_one_processor([] {
    CpuOccupancy first;
    {
      CpuOccupancy second;
      first.enter();
      first.enter();
      EXPECT_TRUE(first.is_alone());
      second.enter();
      second.leave();
      second.leave();
      EXPECT_TRUE(first.is_alone());
      second.enter();
      EXPECT_FALSE(first.is_alone());
    }
    EXPECT_TRUE(first.is_alone()) << "the other has ended";
  });
}

}  // namespace
}  // namespace guestio::vhost
