// SPDX-License-Identifier: MIT
#include "guestio/base/unique_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "testing/descriptor_limit.h"

namespace guestio {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) != -1 || errno != EBADF; }

TEST(UniqueFd, ClosesItsDescriptor) {
  int number = -1;
  {
    const UniqueFd fd(::open("/dev/null", O_RDONLY));
    number = fd.get();
    ASSERT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, AMoveTransfersTheDescriptor) {
  UniqueFd fd(::open("/dev/null", O_RDONLY));
  const int number = fd.get();
  UniqueFd other;
  other = std::move(fd);
  EXPECT_EQ(other.get(), number);
  EXPECT_FALSE(static_cast<bool>(fd));  // NOLINT(bugprone-use-after-move): empty is the point
  EXPECT_TRUE(is_open(number));
}

TEST(UniqueFd, ADuplicateIsAnotherDescriptorOfTheSameFile) {
  const UniqueFd fd(::open("/dev/null", O_RDONLY));
  const auto copy = duplicate_fd(fd);
  ASSERT_TRUE(copy.has_value());
  EXPECT_NE(copy->get(), fd.get());
  EXPECT_EQ(::fcntl(copy->get(), F_GETFD), FD_CLOEXEC);
  EXPECT_FALSE(*duplicate_fd(UniqueFd())) << "an empty duplicate of an empty descriptor";
}

TEST(UniqueFd, Rule48AFailedDuplicateIsAnErrorThatNamesTheLimit) {
  const UniqueFd fd(::open("/dev/null", O_RDONLY));
  const testing::DescriptorLimit limit(0);
  const auto copy = duplicate_fd(fd);
  ASSERT_FALSE(copy.has_value());
  EXPECT_EQ(copy.error().host_errno, EMFILE);
  EXPECT_NE(copy.error().to_string().find("raise LimitNOFILE= or ulimit -n"), std::string::npos)
      << copy.error().to_string();
}

}  // namespace
}  // namespace guestio
