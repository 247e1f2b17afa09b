// SPDX-License-Identifier: MIT
#include "guestio/base/thread.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

namespace guestio {
namespace {

TEST(StartThread, TheThreadHasItsNameAndBlocksAllSignalsButFaults) {
  std::string name;
  sigset_t blocked;
  auto thread = start_thread("a-name-that-is-too-long", [&] {
    std::array<char, 16> bytes{};
    ::pthread_getname_np(::pthread_self(), bytes.data(), bytes.size());
    name = bytes.data();
    ::pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
  });
  ASSERT_TRUE(thread.has_value());
  thread->join();
  EXPECT_EQ(name, "a-name-that-is-");
  EXPECT_EQ(sigismember(&blocked, SIGTERM), 1);
  EXPECT_EQ(sigismember(&blocked, SIGHUP), 1);
  EXPECT_EQ(sigismember(&blocked, SIGPIPE), 1);
  EXPECT_EQ(sigismember(&blocked, SIGBUS), 0);
  EXPECT_EQ(sigismember(&blocked, SIGSEGV), 0);
}

TEST(StartThread, TheSignalMaskOfTheCallerIsUnchanged) {
  sigset_t before;
  sigset_t after;
  ::pthread_sigmask(SIG_BLOCK, nullptr, &before);
  ASSERT_TRUE(start_thread("test", [] {}).has_value());
  ::pthread_sigmask(SIG_BLOCK, nullptr, &after);
  EXPECT_EQ(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
}

TEST(StartThread, AFunctionGetsAStopToken) {
  bool was_asked = false;
  {
    const auto thread = start_thread("test", [&](const std::stop_token& stop) {
      while (!stop.stop_requested()) std::this_thread::yield();
      was_asked = true;
    });
    ASSERT_TRUE(thread.has_value());
  }
  EXPECT_TRUE(was_asked);
}

TEST(StartThread, AFailureToStartAThreadIsAnError) {
  pthread_attr_t usual;
  pthread_attr_t huge;
  ASSERT_EQ(::pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(::pthread_attr_init(&huge), 0);
  // No address space holds such a stack.
  ASSERT_EQ(::pthread_attr_setstacksize(&huge, std::size_t{1} << 60), 0);
  ASSERT_EQ(::pthread_setattr_default_np(&huge), 0);
  const auto thread = start_thread("test", [] {});
  ASSERT_EQ(::pthread_setattr_default_np(&usual), 0);
  ASSERT_FALSE(thread.has_value());
  EXPECT_EQ(thread.error().host_errno, EAGAIN);
  EXPECT_NE(thread.error().to_string().find("ulimit -u"), std::string::npos);
}

}  // namespace
}  // namespace guestio
