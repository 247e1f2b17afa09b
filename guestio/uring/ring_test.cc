// SPDX-License-Identifier: MIT
#include "guestio/uring/ring.h"

#include <gtest/gtest.h>

namespace guestio::uring {
namespace {

TEST(Ring, UsesTheBestSupportedMode) {
  const auto ring = Ring::create({});
  ASSERT_TRUE(ring) << ring.error().to_string();
  EXPECT_LE(ring->mode(), RingMode::kPlain);
}

TEST(Ring, UsesNoBetterModeThanRequested) {
  const auto cooperative = Ring::create({.mode = RingMode::kCooperative});
  ASSERT_TRUE(cooperative);
  EXPECT_GE(cooperative->mode(), RingMode::kCooperative);
  const auto plain = Ring::create({.mode = RingMode::kPlain});
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->mode(), RingMode::kPlain);
}

TEST(Ring, ClampsEntriesToTheKernelLimit) {
  EXPECT_TRUE(Ring::create({.sq_entries = 1U << 20, .cq_entries = 1U << 21}));
}

TEST(Ring, RejectsARingWithoutEntries) {
  const auto ring = Ring::create({.sq_entries = 0});
  ASSERT_FALSE(ring);
  EXPECT_EQ(ring.error().host_errno, EINVAL);
}

TEST(Ring, ReturnsNullWithoutAFreeSqe) {
  auto ring = Ring::create({.sq_entries = 2, .cq_entries = 4});
  ASSERT_TRUE(ring);
  for (int round = 0; round < 10; ++round) {
    io_uring_sqe* const first = ring->next_sqe();
    io_uring_sqe* const second = ring->next_sqe();
    ASSERT_NE(first, nullptr);
    ASSERT_NE(second, nullptr);
    ::io_uring_prep_nop(first);
    ::io_uring_prep_nop(second);
    first->user_data = 1;
    second->user_data = 2;
    EXPECT_EQ(ring->next_sqe(), nullptr);
    ring->enter(Ring::Wait::kForOne);
    ASSERT_EQ(ring->completions_ready(), 2U);
    EXPECT_EQ(ring->pop_completion().user_data, 1U);
    EXPECT_EQ(ring->pop_completion().user_data, 2U);
  }
  EXPECT_EQ(ring->enter_calls(), 10U);
}

TEST(Ring, ABadSqeDoesNotHoldUpTheNext) {
  auto ring = Ring::create({.sq_entries = 4});
  ASSERT_TRUE(ring);
  io_uring_sqe* const bad = ring->next_sqe();
  bad->opcode = 250;
  ::io_uring_prep_nop(ring->next_sqe());
  ring->enter(Ring::Wait::kForOne);
  ASSERT_EQ(ring->completions_ready(), 2U);
  EXPECT_EQ(ring->pop_completion().res, -EINVAL);
  EXPECT_EQ(ring->pop_completion().res, 0);
}

}  // namespace
}  // namespace guestio::uring
