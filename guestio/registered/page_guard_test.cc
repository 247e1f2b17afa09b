// SPDX-License-Identifier: MIT
#include "guestio/registered/page_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "guestio/mem/recover.h"
#include "testing/unlinked_file.h"

namespace guestio::registered {
namespace {

constexpr std::size_t kGuardedPages = 8;

/// Guest memory: a file with two mappings.
class PageGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mem::install_fault_recovery());
    ASSERT_EQ(::ftruncate(file_.get(), kGuardedPages * kPageSize), 0);
    owner_ = Mapping::shared_file(file_.get(), FileOffset(0), kGuardedPages * kPageSize,
                                  Mapping::Access::kReadWrite)
                 .value();
    auto guard =
        PageGuard::create(file_.get(), FileOffset(0), ByteCount(kGuardedPages * kPageSize));
    if (!guard && guard.error().host_errno == ENOSYS)
      GTEST_SKIP() << "emulated, without userfaultfd";
    guard_.emplace(std::move(guard.value()));
  }
  void punch(std::size_t page) const {
    ASSERT_EQ(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          static_cast<off_t>(page * kPageSize), kPageSize),
              0);
  }
  [[nodiscard]] bool holds(std::size_t page) const {
    return guard_->holds(page * kPageSize, kPageSize);
  }

  const UniqueFd file_{::memfd_create("page-guard-test", MFD_CLOEXEC)};
  Mapping owner_;
  std::optional<PageGuard> guard_;
};

TEST_F(PageGuardTest, PagesThatStayAreHeldWhetherResidentBeforeOrNot) {
  owner_.data()[2 * kPageSize] = std::byte{7};
  ASSERT_TRUE(guard_->cover(0, kGuardedPages * kPageSize));
  EXPECT_TRUE(guard_->holds(0, kGuardedPages * kPageSize));
  // Writes, and unmapping elsewhere, remove no page.
  owner_.data()[kPageSize] = std::byte{9};
  ASSERT_EQ(::madvise(owner_.data(), owner_.size(), MADV_DONTNEED), 0);
  EXPECT_TRUE(guard_->holds(0, kGuardedPages * kPageSize));
}

TEST_F(PageGuardTest, APunchedPageIsLostEvenIfReplaced) {
  ASSERT_TRUE(guard_->cover(0, kGuardedPages * kPageSize));
  punch(3);
  EXPECT_FALSE(holds(3));
  owner_.data()[3 * kPageSize] = std::byte{1};
  EXPECT_FALSE(holds(3));
  EXPECT_TRUE(holds(2));
  EXPECT_TRUE(holds(4));
}

TEST_F(PageGuardTest, ARangeIsHeldOnlyIfAllOfItsPagesAre) {
  ASSERT_TRUE(guard_->cover(0, kGuardedPages * kPageSize));
  punch(4);
  EXPECT_TRUE(guard_->holds(2 * kPageSize + 100, 2 * kPageSize - 100));
  EXPECT_FALSE(guard_->holds(2 * kPageSize + 100, 2 * kPageSize - 99));
  EXPECT_FALSE(guard_->holds(0, kGuardedPages * kPageSize));
  EXPECT_FALSE(guard_->holds(5 * kPageSize - 1, 1));
  EXPECT_TRUE(guard_->holds(5 * kPageSize, 1));
}

TEST_F(PageGuardTest, PrefetchingAccessesNothing) {
  struct stat before{};
  struct stat after{};
  ASSERT_TRUE(guard_->cover(0, kGuardedPages * kPageSize));
  punch(4);
  ASSERT_EQ(::fstat(file_.get(), &before), 0);
  guard_->prefetch(100, kGuardedPages * kPageSize - 100);
  guard_->prefetch(5 * kPageSize - 1, 1);
  ASSERT_EQ(::fstat(file_.get(), &after), 0);
  EXPECT_EQ(after.st_blocks, before.st_blocks) << "no page was faulted in";
  EXPECT_FALSE(holds(4));
  EXPECT_TRUE(holds(5));
}

TEST_F(PageGuardTest, ATruncatedFileLosesItsPages) {
  ASSERT_TRUE(guard_->cover(0, kGuardedPages * kPageSize));
  ASSERT_EQ(::ftruncate(file_.get(), 2 * kPageSize), 0);
  EXPECT_TRUE(holds(1));
  EXPECT_FALSE(holds(2));
  ASSERT_EQ(::ftruncate(file_.get(), kGuardedPages * kPageSize), 0);
  EXPECT_FALSE(holds(2));
}

TEST_F(PageGuardTest, RangesAreCoveredIndependently) {
  ASSERT_TRUE(guard_->cover(0, 2 * kPageSize));
  punch(5);
  punch(1);
  ASSERT_TRUE(guard_->cover(2 * kPageSize, (kGuardedPages - 2) * kPageSize));
  EXPECT_FALSE(holds(1));
  EXPECT_TRUE(holds(5));
  punch(5);
  EXPECT_FALSE(holds(5));
}

TEST_F(PageGuardTest, FilesOnDiskAreRefused) {
  const UniqueFd file = make_unlinked_file(O_CLOEXEC);
  if (!file) GTEST_SKIP() << "there is no disk here";
  ASSERT_EQ(::ftruncate(file.get(), kPageSize), 0);
  auto guard = PageGuard::create(file.get(), FileOffset(0), ByteCount(kPageSize));
  ASSERT_TRUE(guard);
  const auto covered = guard->cover(0, kPageSize);
  ASSERT_FALSE(covered);
  EXPECT_EQ(covered.error().kind, ErrorKind::kUnsupported);
}

}  // namespace
}  // namespace guestio::registered
