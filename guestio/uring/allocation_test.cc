// SPDX-License-Identifier: MIT
// A running loop allocates nothing. A separate program, because it replaces operator new.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <array>

#include "guestio/base/unique_fd.h"
#include "guestio/task/wait_queue.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/notify.h"
#include "guestio/uring/poll.h"
#include "guestio/uring/run_task.h"
#include "testing/count_allocations.h"

namespace guestio::uring {
namespace {

using task::Task;

Task<std::int32_t> one_request(Loop& loop, File file) {
  std::array<std::byte, 512> buffer{};
  const std::int32_t written = co_await write(loop, file, buffer, FileOffset(0));
  const std::int32_t result = co_await read(loop, file, buffer, FileOffset(0));
  co_return written == result ? result : -1;
}

Task<> serve(Loop& loop, File file, task::StopToken token, int requests, int& failed) {
  for (int i = 0; i < requests; ++i) {
    const std::int32_t result = co_await one_request(loop, file);
    if (result != 512) ++failed;
    co_await sleep(loop, std::chrono::nanoseconds(1), token);
  }
}

// More operations than SQEs: some queue.
void run_requests(Loop& loop, File file, int& failed) {
  task::StopSource stop;
  task::Scope scope;
  for (int i = 0; i < 64; ++i) scope.spawn(serve(loop, file, stop.token(), 20, failed));
  loop.run_until_idle();
}

TEST(Allocation, NoneForAnOperationAfterWarmUp) {
  auto loop = Loop::create({.ring = {.sq_entries = 16}}).value();
  const UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  const File file = loop->register_file(fd.get());
  int failed = 0;
  run_requests(*loop, file, failed);
  const std::uint64_t before = testing::allocations();
  ASSERT_GT(before, 0U) << "the counter does not count";
  run_requests(*loop, file, failed);
  EXPECT_EQ(testing::allocations() - before, 0U);
  EXPECT_EQ(failed, 0);
  EXPECT_GT(loop->statistics().sq_full, 0U);
}

TEST(Allocation, NoneForKicksAndCalls) {
  auto loop = Loop::create().value();
  const UniqueFd kick(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd call(::eventfd(0, EFD_CLOEXEC));
  auto notifier = EventFdNotifier::create(call.get()).value();
  int left = 2000;
  std::uint64_t before = 0;
  MultishotPoll poll(*loop, File(kick.get()), POLLIN, [&](std::int32_t) {
    notifier.notify();
    if (--left == 1000) before = testing::allocations();
    if (left == 0) return loop->stop();
    ::eventfd_write(kick.get(), 1);
  });
  poll.start();
  ::eventfd_write(kick.get(), 1);
  loop->run();
  EXPECT_EQ(testing::allocations() - before, 0U);
  (void)poll.stop();
  loop->run_until_idle();
}

}  // namespace
}  // namespace guestio::uring
