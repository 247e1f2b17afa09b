// SPDX-License-Identifier: MIT
#include "guestio/vhost/fixed_guest_memory.h"

#include <gtest/gtest.h>

#include <array>

#include "guestio/uring/ring.h"

namespace guestio::vhost {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class FixedGuestMemoryTest : public ::testing::Test {
 protected:
  static std::byte* host(const mem::GuestMemory& memory, std::uint64_t gpa) {
    return memory.host_range(Gpa(gpa), 1).value();
  }
  const mem::GuestMemory low_ = mem::GuestMemory::allocate(ByteCount(kMiB)).value();
  const mem::GuestMemory high_ = mem::GuestMemory::allocate(ByteCount(kMiB), Gpa(4 * kMiB)).value();
  uring::Ring ring_ = uring::Ring::create({.submission_entries = 4}).value();
  FixedGuestMemory wish_;
};

TEST_F(FixedGuestMemoryTest, EveryRegionIsRegisteredUntilTheRegistrationsGo) {
  auto specs = low_.specs();
  specs.push_back(high_.specs().front());
  const auto both = mem::GuestMemory::create(specs).value();
  uring::FixedMemory table(ring_, 4);
  {
    const auto made = wish_.add(table, both);
    EXPECT_EQ(made.size(), 2U);
    EXPECT_TRUE(table.find(host(both, 0), kMiB).has_value());
    EXPECT_TRUE(table.find(host(both, 4 * kMiB), kMiB).has_value());
  }
  EXPECT_EQ(table.pieces(), 0U);
}

TEST_F(FixedGuestMemoryTest, TwoRingsOfOneThreadShareTheRegistration) {
  uring::FixedMemory table(ring_, 4);
  auto first = wish_.add(table, low_);
  const auto second = wish_.add(table, low_);
  EXPECT_EQ(table.pieces(), 1U);
  first.clear();
  EXPECT_TRUE(table.find(host(low_, 0), kMiB).has_value());
}

TEST_F(FixedGuestMemoryTest, ARegionThatStaysIsNotRegisteredAnewWhenAnotherComes) {
  uring::FixedMemory table(ring_, 4);
  auto before = wish_.add(table, low_);
  auto specs = low_.specs();
  specs.push_back(high_.specs().front());
  const auto both = mem::GuestMemory::create(specs).value();
  auto staying = FixedGuestMemory::share(table, both);
  before.clear();
  EXPECT_EQ(staying.size(), 1U);
  EXPECT_TRUE(table.find(host(both, 0), kMiB).has_value());
  const auto after = wish_.add(table, both);
  staying.clear();
  EXPECT_EQ(table.pieces(), 2U);
  EXPECT_EQ(table.statistics().registered_bytes, 2 * kMiB);
}

TEST_F(FixedGuestMemoryTest, WhatTheTableHasNoRoomForStaysPlainAndIsToldOnce) {
  uring::FixedMemory table(ring_, 1);
  const auto first = wish_.add(table, low_);
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(wish_.add(table, high_).empty());
  EXPECT_TRUE(wish_.add(table, high_).empty());
  const std::string told = ::testing::internal::GetCapturedStderr();
  const auto line = told.find("CAP_IPC_LOCK");
  ASSERT_NE(line, std::string::npos) << told;
  EXPECT_EQ(told.find("CAP_IPC_LOCK", line + 1), std::string::npos) << told;
  EXPECT_EQ(table.find(host(high_, 4 * kMiB), 1), std::nullopt);
}

}  // namespace
}  // namespace guestio::vhost
