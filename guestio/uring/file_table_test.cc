// SPDX-License-Identifier: MIT
#include "guestio/uring/file_table.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "guestio/base/unique_fd.h"

namespace guestio::uring {
namespace {

class FileTableTest : public ::testing::Test {
 protected:
  Ring ring_ = Ring::create({.sq_entries = 4}).value();
  UniqueFd null_{::open("/dev/null", O_RDWR | O_CLOEXEC)};
};

TEST_F(FileTableTest, FilesStayPlainWithoutAFreeSlot) {
  FileTable table(ring_, 2);
  const File first = table.add(null_.get());
  const File second = table.add(null_.get());
  const File third = table.add(null_.get());
  EXPECT_TRUE(first.is_registered());
  EXPECT_TRUE(second.is_registered());
  EXPECT_FALSE(third.is_registered());
  EXPECT_EQ(first.fd(), null_.get());
  EXPECT_EQ(third.fd(), null_.get());
  table.remove(third);
  table.remove(first);
  EXPECT_EQ(table.free_slots(), 1U);
  EXPECT_TRUE(table.add(null_.get()).is_registered());
}

TEST_F(FileTableTest, WithoutSlotsEveryFileStaysPlain) {
  FileTable table(ring_, 0);
  EXPECT_FALSE(table.add(null_.get()).is_registered());
}

TEST_F(FileTableTest, FilesRejectedByTheKernelStayPlain) {
  // A ring cannot be registered with a ring.
  FileTable table(ring_, 2);
  EXPECT_FALSE(table.add(ring_.raw()->ring_fd).is_registered());
  EXPECT_FALSE(table.add(-2).is_registered());
  EXPECT_EQ(table.free_slots(), 2U);
}

TEST_F(FileTableTest, TooManySlotsMakeATableWithoutSlots) {
  FileTable table(ring_, 1U << 30);
  EXPECT_EQ(table.free_slots(), 0U);
  EXPECT_FALSE(table.add(null_.get()).is_registered());
}

TEST_F(FileTableTest, ASqeNamesARegisteredFileByItsSlot) {
  FileTable table(ring_, 1);
  const File file = table.add(null_.get());
  io_uring_sqe entry{};
  file.apply_to(entry);
  EXPECT_EQ(entry.fd, 0);
  EXPECT_NE(entry.flags & IOSQE_FIXED_FILE, 0);
  io_uring_sqe plain{};
  File(7).apply_to(plain);
  EXPECT_EQ(plain.fd, 7);
  EXPECT_EQ(plain.flags, 0);
}

}  // namespace
}  // namespace guestio::uring
