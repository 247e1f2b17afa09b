// SPDX-License-Identifier: MIT
#include "guestio/base/unique_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace guestio {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) != -1 || errno != EBADF; }

TEST(UniqueFd, ClosesWhatItOwns) {
  int number = -1;
  {
    const UniqueFd fd(::open("/dev/null", O_RDONLY));
    number = fd.get();
    ASSERT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, MovingHandsTheDescriptorOver) {
  UniqueFd fd(::open("/dev/null", O_RDONLY));
  const int number = fd.get();
  UniqueFd other;
  other = std::move(fd);
  EXPECT_EQ(other.get(), number);
  EXPECT_FALSE(static_cast<bool>(fd));  // NOLINT(bugprone-use-after-move): empty is the point
  EXPECT_TRUE(is_open(number));
}

}  // namespace
}  // namespace guestio
