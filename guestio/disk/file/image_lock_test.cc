// SPDX-License-Identifier: MIT
#include "guestio/disk/file/image_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "testing/temporary.h"

namespace guestio::disk {
namespace {

class ImageLockTest : public ::testing::Test {
 protected:
  UniqueFd open() { return UniqueFd(::open(path_.c_str(), O_RDWR | O_CLOEXEC)); }
  testing::TemporaryDirectory folder_;
  std::string path_ = folder_.make_image("disk.img", 4096);
};

TEST_F(ImageLockTest, ASecondWriterIsRefused) {
  const UniqueFd first = open();
  const UniqueFd second = open();
  ASSERT_TRUE(lock_image(first.get(), ImageAccess::kReadWrite));
  const auto refused = lock_image(second.get(), ImageAccess::kReadWrite);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::kBusy);
}

TEST_F(ImageLockTest, ReadersShareAndExcludeWriters) {
  const UniqueFd first = open();
  const UniqueFd second = open();
  const UniqueFd writer = open();
  EXPECT_TRUE(lock_image(first.get(), ImageAccess::kReadOnly));
  EXPECT_TRUE(lock_image(second.get(), ImageAccess::kReadOnly));
  EXPECT_FALSE(lock_image(writer.get(), ImageAccess::kReadWrite));
}

TEST_F(ImageLockTest, AWriterExcludesReaders) {
  const UniqueFd writer = open();
  const UniqueFd reader = open();
  EXPECT_TRUE(lock_image(writer.get(), ImageAccess::kReadWrite));
  EXPECT_FALSE(lock_image(reader.get(), ImageAccess::kReadOnly));
}

TEST_F(ImageLockTest, AClosedImageIsFree) {
  {
    const UniqueFd gone = open();
    ASSERT_TRUE(lock_image(gone.get(), ImageAccess::kReadWrite));
  }
  const UniqueFd next = open();
  EXPECT_TRUE(lock_image(next.get(), ImageAccess::kReadWrite));
}

}  // namespace
}  // namespace guestio::disk
