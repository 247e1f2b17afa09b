// SPDX-License-Identifier: MIT
#include "guestio/disk/file/errno_class.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace guestio::disk {
namespace {

TEST(ErrnoClass, Rule49AShortageOfTheHostIsNoFailureOfTheDisk) {
  for (const int error : {EAGAIN, EBUSY, ECANCELED, EINTR, ENOBUFS, ENOMEM}) {
    EXPECT_TRUE(is_shortage(-error)) << error;
  }
  for (const int result : {0, 4096, -EIO, -ENOSPC, -EINVAL, -EFAULT, -EROFS, -EFBIG, -ENODATA}) {
    EXPECT_FALSE(is_shortage(result)) << result;
  }
}

TEST(ErrnoClass, Rule50UnsupportedOperationsDifferFromFailedOnes) {
  for (const int error : {EOPNOTSUPP, EBUSY, EINVAL, ENOSYS, ENODEV, EPERM}) {
    EXPECT_TRUE(is_unsupported(-error)) << error;
  }
  for (const int result : {0, -EIO, -ENOSPC, -EREMOTEIO, -EROFS, -EFBIG, -ENOMEM, -ECANCELED}) {
    EXPECT_FALSE(is_unsupported(result)) << result;
  }
}

TEST(ErrnoClass, Rule30AFailedStableWriteReportsLostPagesUnlessItNeverBegan) {
  for (const int error : {EIO, ENOSPC, EDQUOT, EFBIG, EAGAIN, EBUSY, EINTR, ENOMEM}) {
    EXPECT_TRUE(may_report_data_loss(-error)) << error;
  }
  for (const int result : {0, 4096, -ECANCELED, -EFAULT, -EINVAL}) {
    EXPECT_FALSE(may_report_data_loss(result)) << result;
  }
}

}  // namespace
}  // namespace guestio::disk
