// SPDX-License-Identifier: MIT
#include "guestio/base/error.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <type_traits>

namespace guestio {
namespace {

static_assert(std::is_trivially_copyable_v<Error> && sizeof(Error) <= 32);

TEST(Error, AHostFailureNamesTheOperationAndItsErrno) {
  ASSERT_EQ(::open("/nonexistent/file", O_RDONLY), -1);
  const Error error = Error::from_errno("open image");
  EXPECT_EQ(error.host_errno, ENOENT);
  EXPECT_EQ(error.to_string(), "open image: No such file or directory");
}

TEST(Error, AnUnknownErrnoStillPrints) {
  EXPECT_EQ(Error::host(9999, "open").to_string(), "open: unknown errno");
}

TEST(Error, ARangeErrorNamesTheRequestAndTheLimit) {
  EXPECT_EQ(Error::make(ErrorKind::kOutOfRange, "read", 8192, 4096).to_string(),
            "read: out of range (8192 requested, limit 4096)");
}

TEST(Error, EveryKindHasAName) {
  for (auto kind = 0; kind <= static_cast<int>(ErrorKind::kHost); ++kind) {
    EXPECT_STRNE(to_text(static_cast<ErrorKind>(kind)), "unknown error");
  }
}

TEST(Error, FailMakesAResult) {
  const Result<int> result = fail(ErrorKind::kReadOnly, "write");
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error(), Error::make(ErrorKind::kReadOnly, "write"));
}

}  // namespace
}  // namespace guestio
