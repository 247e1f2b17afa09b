// SPDX-License-Identifier: MIT
#include "guestio/uring/setup_hint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace guestio::uring {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(SetupHintTest, ARefusalNamesTheSysctlAndSeccompProfiles) {
  for (const int refusal : {EPERM, ENOSYS}) {
    const std::string text = setup_failure_hint(Error::host(refusal, "set up"));
    EXPECT_THAT(text, HasSubstr("kernel.io_uring_disabled"));
    EXPECT_THAT(text, HasSubstr("seccomp profile"));
    EXPECT_THAT(text, HasSubstr("SystemCallFilter="));
  }
}

TEST(SetupHintTest, ENOMEMNamesTheMemoryLockLimit) {
  EXPECT_THAT(setup_failure_hint(Error::host(ENOMEM, "set up")), StartsWith("RLIMIT_MEMLOCK is"));
}

TEST(SetupHintTest, OtherErrorsHaveNoHint) {
  EXPECT_EQ(setup_failure_hint(Error::host(EMFILE, "set up")), "");
  EXPECT_EQ(setup_failure_hint(Error::make(ErrorKind::kBusy, "set up")), "");
}

}  // namespace
}  // namespace guestio::uring
