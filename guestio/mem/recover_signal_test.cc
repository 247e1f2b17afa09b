// SPDX-License-Identifier: MIT
// Signals that are not ours. Each case runs in a forked process without installed handlers: hence a
// separate program, whose first process installs none.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "guestio/base/mapping.h"
#include "guestio/mem/recover.h"
#include "testing/rounds.h"

namespace guestio::mem {
namespace {

// Forking is fast and works in an emulator; the thread sanitizer allows no threads after a fork.
constexpr const char* kStyle = kIsThreadSanitized ? "threadsafe" : "fast";

std::atomic<int> older_calls = 0;
std::atomic<int> older_code = 0;

void count_signal(int, siginfo_t* info, void*) {
  older_code = info->si_code;
  ++older_calls;
}
void leave_with_signal(int signal) { ::_exit(signal + 100); }

void set_handler(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action{};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(::sigaction(signal, &action, nullptr), 0);
}

std::byte* inaccessible_page() {
  static const Mapping page = *Mapping::reserve(kPageSize, kPageSize);
  return page.data();
}

class RecoverSignalDeathTest : public testing::Test {
 protected:
  void SetUp() override {
    testing::FLAGS_gtest_death_test_style = kStyle;
    const rlimit no_core{0, 0};
    ::setrlimit(RLIMIT_CORE, &no_core);
  }
};

/// Sanitizers install handlers of their own: sets the default action explicitly.
void restore_defaults() {
  ::signal(SIGSEGV, SIG_DFL);
  ::signal(SIGBUS, SIG_DFL);
}

TEST_F(RecoverSignalDeathTest, AForeignFaultGoesToThePreviousHandler) {
  EXPECT_EXIT(
      {
        ::signal(SIGSEGV, leave_with_signal);
        (void)install_fault_recovery();
        *reinterpret_cast<volatile char*>(inaccessible_page()) = 1;
      },
      testing::ExitedWithCode(SIGSEGV + 100), "");
}

TEST_F(RecoverSignalDeathTest, AForeignFaultWithoutAPreviousHandlerKills) {
  EXPECT_EXIT(
      {
        restore_defaults();
        (void)install_fault_recovery();
        *reinterpret_cast<volatile char*>(inaccessible_page()) = 1;
      },
      testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(RecoverSignalDeathTest, AForeignFaultKillsEvenIfTheSignalWasIgnored) {
  EXPECT_EXIT(
      {
        ::signal(SIGSEGV, SIG_IGN);
        (void)install_fault_recovery();
        *reinterpret_cast<volatile char*>(inaccessible_page()) = 1;
      },
      testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(RecoverSignalDeathTest, ASentSignalKillsByDefault) {
  EXPECT_EXIT(
      {
        restore_defaults();
        (void)install_fault_recovery();
        ::kill(::getpid(), SIGBUS);
        for (;;) ::pause();
      },
      testing::KilledBySignal(SIGBUS), "");
}

TEST_F(RecoverSignalDeathTest, ASentSignalStaysIgnored) {
  EXPECT_EXIT(
      {
        ::signal(SIGSEGV, SIG_IGN);
        (void)install_fault_recovery();
        ::raise(SIGSEGV);
        ::_exit(3);
      },
      testing::ExitedWithCode(3), "");
}

TEST_F(RecoverSignalDeathTest, APreviousOneShotHandlerRunsOnce) {
  EXPECT_EXIT(
      {
        struct sigaction action{};
        action.sa_sigaction = count_signal;
        action.sa_flags = SA_SIGINFO | static_cast<int>(SA_RESETHAND);
        ::sigaction(SIGSEGV, &action, nullptr);
        (void)install_fault_recovery();
        ::raise(SIGSEGV);
        if (older_calls != 1) ::_exit(1);
        ::raise(SIGSEGV);
        for (;;) ::pause();
      },
      testing::KilledBySignal(SIGSEGV), "");
}

/// Copies without faults under many signals: none may count as a fault of the copy.
void copy_under_signals() {
  set_handler(SIGSEGV, count_signal);
  if (!install_fault_recovery() || !install_fault_recovery()) ::_exit(1);
  std::vector<std::byte> from(1 << 16, std::byte{7});
  std::vector<std::byte> to(1 << 16);
  std::atomic<bool> done = false;
  const pthread_t copier = ::pthread_self();
  std::thread sender([&] {
    while (older_calls < 200 && !done) ::pthread_kill(copier, SIGSEGV);
  });
  bool exact = true;
  while (older_calls < 200 && exact) {
    exact = try_copy(to.data(), from.data(), from.size()) == from.size();
    std::byte missing[64];
    exact = exact && try_copy(missing, inaccessible_page(), sizeof(missing)) == 0;
  }
  done = true;
  sender.join();
  ::_exit(exact && older_code <= 0 ? 0 : 2);
}

TEST_F(RecoverSignalDeathTest, SignalsDuringACopyGoToThePreviousHandlerAndTheCopyCompletes) {
  if (kIsThreadSanitized) GTEST_SKIP() << "a sent SIGSEGV can interrupt the sanitizer itself";
  EXPECT_EXIT(copy_under_signals(), testing::ExitedWithCode(0), "");
}

/// Recovers on a small alternate stack and on none.
void recover_on_any_stack() {
  if (!install_fault_recovery()) ::_exit(1);
  std::byte buffer[300];
  if (try_copy(buffer, inaccessible_page(), sizeof(buffer)) != 0) ::_exit(2);
  static std::byte stack_bytes[1 << 16];
  stack_t stack{};
  stack.ss_sp = stack_bytes;
  stack.ss_size = sizeof(stack_bytes);
  if (::sigaltstack(&stack, nullptr) != 0) ::_exit(3);
  if (try_copy(buffer, inaccessible_page(), sizeof(buffer)) != 0) ::_exit(4);
  ::_exit(0);
}

TEST_F(RecoverSignalDeathTest, RecoversWithAndWithoutAnAlternateStack) {
  EXPECT_EXIT(recover_on_any_stack(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace guestio::mem
