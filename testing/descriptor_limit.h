// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

namespace guestio::testing {

/// Limits RLIMIT_NOFILE for its lifetime: descriptors from the lowest free one + `more` on are
/// unavailable. With 0 the process gets no new descriptors.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(unsigned more) {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const int lowest = ::dup(0);
    EXPECT_GE(lowest, 0);
    ::close(lowest);
    const rlimit limited{.rlim_cur = static_cast<rlim_t>(lowest) + more,
                         .rlim_max = before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limited), 0);
  }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() { EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

}  // namespace guestio::testing
