// SPDX-License-Identifier: MIT
#include "guestio/uring/notify.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

#include "guestio/base/unique_fd.h"
#include "guestio/uring/loop.h"

namespace guestio::uring {
namespace {

// The kernel's maximum; a further write(2) would block.
constexpr std::uint64_t kFull = ~std::uint64_t{0} - 1;

class EventFdNotifierTest : public ::testing::TestWithParam<int> {
 protected:
  UniqueFd event_{::eventfd(0, EFD_CLOEXEC | GetParam())};

  std::uint64_t take() const {
    pollfd state{event_.get(), POLLIN, 0};
    std::uint64_t count = 0;
    if (::poll(&state, 1, 0) == 1) ::eventfd_read(event_.get(), &count);
    return count;
  }
};

INSTANTIATE_TEST_SUITE_P(Flags, EventFdNotifierTest, ::testing::Values(0, EFD_NONBLOCK),
                         [](const auto& info) {
                           return info.param == 0 ? "blocking" : "non_blocking";
                         });

TEST_P(EventFdNotifierTest, AddsOnePerCall) {
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier) << notifier.error().to_string();
  EXPECT_EQ(take(), 0U);
  notifier->notify();
  EXPECT_EQ(take(), 1U);
  for (int i = 0; i < 1000; ++i) notifier->notify();
  EXPECT_EQ(take(), 1000U);
}

TEST_P(EventFdNotifierTest, DoesNotBlockOnAFullCounter) {
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier);
  ASSERT_EQ(::eventfd_write(event_.get(), kFull), 0);
  for (int i = 0; i < 1000; ++i) notifier->notify();
  EXPECT_GE(take(), kFull);
  notifier->notify();
  EXPECT_EQ(take(), 1U);
}

TEST_P(EventFdNotifierTest, DoesNotBlockAfterThePeerClearsONonblock) {
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier);
  ASSERT_EQ(::fcntl(event_.get(), F_SETFL, 0), 0);
  ASSERT_EQ(::eventfd_write(event_.get(), kFull), 0);
  notifier->notify();
  EXPECT_GE(take(), kFull);
}

TEST_P(EventFdNotifierTest, OutlivesTheDescriptorOfItsCreation) {
  UniqueFd ours(::fcntl(event_.get(), F_DUPFD_CLOEXEC, 0));
  auto notifier = EventFdNotifier::create(ours.get());
  ASSERT_TRUE(notifier);
  ours.reset();
  notifier->notify();
  EXPECT_EQ(take(), 1U);
}

TEST_P(EventFdNotifierTest, MovesToAnotherEventfd) {
  const UniqueFd other(::eventfd(0, EFD_CLOEXEC));
  auto notifier = EventFdNotifier::create(other.get());
  ASSERT_TRUE(notifier);
  auto replacement = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(replacement);
  *notifier = std::move(*replacement);
  notifier->notify();
  EXPECT_EQ(take(), 1U);
  EXPECT_FALSE(static_cast<bool>(*replacement));
}

TEST_P(EventFdNotifierTest, MayBeUsedAndDestroyedOnAnotherThread) {
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier);
  std::thread([moved = std::move(*notifier)]() mutable { moved.notify(); }).join();
  EXPECT_EQ(take(), 1U);
}

TEST_P(EventFdNotifierTest, SignalsWithTheNextSubmissionOfALoop) {
  auto loop = Loop::create().value();
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier);
  loop->run_until_idle();
  const auto calls = loop->statistics().enter_calls;
  notifier->notify_with(*loop);
  EXPECT_EQ(take(), 0U) << "not before";
  loop->submit();
  EXPECT_EQ(take(), 1U);
  EXPECT_EQ(loop->statistics().enter_calls, calls + 1);
  for (int i = 0; i < 1000; ++i) {
    notifier->notify_with(*loop);
    loop->submit();
  }
  EXPECT_EQ(take(), 1000U);
}

TEST_P(EventFdNotifierTest, SignalsWithoutAFreeSqeInTheLoop) {
  auto loop = Loop::create({.ring = {.sq_entries = 4}}).value();
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier);
  for (int i = 0; i < 100; ++i) notifier->notify_with(*loop);
  loop->submit();
  EXPECT_EQ(take(), 100U);
}

TEST_P(EventFdNotifierTest, DoesNotBlockALoopOnAFullCounter) {
  auto loop = Loop::create().value();
  auto notifier = EventFdNotifier::create(event_.get());
  ASSERT_TRUE(notifier);
  ASSERT_EQ(::eventfd_write(event_.get(), kFull), 0);
  for (int i = 0; i < 100; ++i) {
    notifier->notify_with(*loop);
    loop->submit();
  }
  EXPECT_GE(take(), kFull);
}

TEST(EventFdNotifier, ADefaultNotifierHasNoEffect) {
  EventFdNotifier notifier;
  notifier.notify();
  EXPECT_FALSE(static_cast<bool>(notifier));
}

TEST(EventFdNotifier, RejectsOtherDescriptorsThanEventfds) {
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const auto notifier = EventFdNotifier::create(file.get());
  ASSERT_FALSE(notifier);
  EXPECT_EQ(notifier.error().host_errno, EINVAL);
}

TEST(EventFdNotifier, RejectsAClosedDescriptor) { EXPECT_FALSE(EventFdNotifier::create(-1)); }

}  // namespace
}  // namespace guestio::uring
