// SPDX-License-Identifier: MIT
// Devices with polling queues are rare, so these tests hold with and without one: reads of holes
// need no device and succeed, other operations may be rejected.
#include "guestio/uring/iopoll_ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/uring/operation_test.h"
#include "testing/unlinked_file.h"

namespace guestio::uring {
namespace {

constexpr std::size_t kBytes = 4096;

class IopollRingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!file_) GTEST_SKIP() << "no direct I/O here";
    ASSERT_EQ(::ftruncate(file_.get(), 1 << 20), 0);
  }
  TestOperation::Prepare read(std::byte* to) const {
    return [fd = file_.get(), to](io_uring_sqe& entry) {
      ::io_uring_prep_read(&entry, fd, to, kBytes, 0);
    };
  }
  std::byte* buffer() { return reinterpret_cast<std::byte*>(buffer_); }

  UniqueFd file_ = make_unlinked_file(O_DIRECT | O_CLOEXEC);
  alignas(kBytes) char buffer_[kBytes] = "before";
  std::unique_ptr<Loop> loop_ = Loop::create().value();
  std::unique_ptr<IopollRing> ring_ = IopollRing::create(*loop_).value();
};

TEST_F(IopollRingTest, AReadCompletesByPolling) {
  TestOperation operation(read(buffer()));
  ring_->start(operation);
  EXPECT_EQ(operation.completions, 0U);
  EXPECT_EQ(ring_->in_flight(), 1U);
  loop_->run_until_idle();
  EXPECT_EQ(operation.completions, 1U);
  EXPECT_EQ(ring_->in_flight(), 0U);
  if (operation.last_result == static_cast<std::int32_t>(kBytes)) {
    EXPECT_EQ(buffer_[0], 0);
  } else {
    EXPECT_EQ(operation.last_result, -EOPNOTSUPP);
    EXPECT_STREQ(buffer_, "before");
  }
}

TEST_F(IopollRingTest, OperationsBeyondTheSqSizeWaitAndComplete) {
  std::deque<TestOperation> operations;
  for (int i = 0; i < 1000; ++i) ring_->start(operations.emplace_back(read(buffer())));
  loop_->run_until_idle();
  for (const TestOperation& operation : operations) ASSERT_EQ(operation.completions, 1U);
}

TEST_F(IopollRingTest, OperationsWithoutPollingAreRejected) {
  TestOperation operation([](io_uring_sqe& entry) { ::io_uring_prep_poll_add(&entry, 0, 1); });
  ring_->start(operation);
  loop_->run_until_idle();
  EXPECT_EQ(operation.last_result, -EINVAL);
}

}  // namespace
}  // namespace guestio::uring
