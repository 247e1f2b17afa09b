// SPDX-License-Identifier: MIT
#include "guestio/base/standard_fds.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace guestio {
namespace {

bool is_null_device(int fd) {
  struct stat status{};
  struct stat null{};
  return ::fstat(fd, &status) == 0 && ::stat("/dev/null", &null) == 0 &&
         status.st_rdev == null.st_rdev;
}

bool is_there(int fd) { return ::fcntl(fd, F_GETFD) != -1; }

/// Closes those of descriptors 0, 1 and 2 with their bit set. Checks that exactly they become
/// /dev/null and that the next open file gets another number.
bool opens_what_is_closed(unsigned closed) {
  for (int fd = 0; fd <= 2; ++fd) {
    if ((closed >> fd & 1U) != 0) ::close(fd);
  }
  open_standard_fds();
  bool is_right = ::dup(0) > 2;
  for (int fd = 0; fd <= 2; ++fd) {
    is_right = is_right && ((closed >> fd & 1U) != 0 ? is_null_device(fd) : is_there(fd));
  }
  return is_right;
}

class ClosedStandardFdsDeathTest : public testing::TestWithParam<unsigned> {};

TEST_P(ClosedStandardFdsDeathTest, ClosedDescriptorsBecomeTheNullDevice) {
  EXPECT_EXIT(::_exit(opens_what_is_closed(GetParam()) ? 0 : 1), testing::ExitedWithCode(0), "");
}

INSTANTIATE_TEST_SUITE_P(EachCombination, ClosedStandardFdsDeathTest, testing::Range(0U, 8U));

/// Returns only if open_standard_fds() does not exit when no descriptor is available.
void open_without_descriptors() {
  const rlimit one{.rlim_cur = 1, .rlim_max = 1};
  ::close(STDOUT_FILENO);
  if (::setrlimit(RLIMIT_NOFILE, &one) == 0) open_standard_fds();
  ::_exit(0);
}

TEST(StandardFdsDeathTest, ExitsIfTheNullDeviceCannotBeOpened) {
  EXPECT_EXIT(open_without_descriptors(), testing::ExitedWithCode(2), "cannot open /dev/null");
}

}  // namespace
}  // namespace guestio
