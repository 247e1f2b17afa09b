// SPDX-License-Identifier: MIT
#include "guestio/uring/remedy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace guestio::uring {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Remedy, ARefusalNamesTheSwitchOfTheKernelAndProfiles) {
  for (const int refusal : {EPERM, ENOSYS}) {
    const std::string text = explain_setup_failure(Error::host(refusal, "set up"));
    EXPECT_THAT(text, HasSubstr("kernel.io_uring_disabled"));
    EXPECT_THAT(text, HasSubstr("seccomp profile"));
    EXPECT_THAT(text, HasSubstr("SystemCallFilter="));
  }
}

TEST(Remedy, AShortageNamesTheLimitOfLockedMemory) {
  EXPECT_THAT(explain_setup_failure(Error::host(ENOMEM, "set up")),
              StartsWith("RLIMIT_MEMLOCK is"));
}

TEST(Remedy, WhatHasAnotherCauseIsNotExplained) {
  EXPECT_EQ(explain_setup_failure(Error::host(EMFILE, "set up")), "");
  EXPECT_EQ(explain_setup_failure(Error::make(ErrorKind::kBusy, "set up")), "");
}

}  // namespace
}  // namespace guestio::uring
