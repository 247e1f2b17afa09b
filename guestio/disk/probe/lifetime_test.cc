// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/lifetime.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <fstream>

#include "guestio/base/unique_fd.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

class LifetimeTest : public ::testing::Test {
 protected:
  void tell(const char* life_time, const char* pre_eol_info) {
    std::ofstream(folder_.file("life_time")) << life_time;
    std::ofstream(folder_.file("pre_eol_info")) << pre_eol_info;
  }
  std::optional<Lifetime> read() { return read_lifetime(folder_.path()); }

  testing::TemporaryDirectory folder_;
};

TEST_F(LifetimeTest, IsReadInTheKernelsFormat) {
  tell("0x02 0x0b\n", "0x01\n");
  const auto lifetime = read();
  ASSERT_TRUE(lifetime.has_value());
  EXPECT_EQ(lifetime->estimate_type_a, 2u);
  EXPECT_EQ(lifetime->estimate_type_b, 11u);
  EXPECT_EQ(lifetime->pre_eol_info, 1u);
}

TEST_F(LifetimeTest, MissingAndMalformedFilesGiveNone) {
  EXPECT_FALSE(read().has_value());
  tell("0x02\n", "0x01\n");
  EXPECT_FALSE(read().has_value());
  tell("none", "0x01\n");
  EXPECT_FALSE(read().has_value());
  tell("0x100 0x01\n", "0x01\n");
  EXPECT_FALSE(read().has_value());
}

TEST_F(LifetimeTest, OtherFilesAndDevicesHaveNone) {
  const UniqueFd file(::open(folder_.make_image("disk.img", 1 << 20).c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(find_lifetime(file.get()).has_value());
  const testing::LoopDevice device(folder_.make_image("loop.img", 1 << 20), 512);
  if (device.path().empty()) GTEST_SKIP() << "no loop devices without root";
  const UniqueFd loop(::open(device.path().c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(find_lifetime(loop.get()).has_value());
}

}  // namespace
}  // namespace guestio::disk
