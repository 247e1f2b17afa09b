// SPDX-License-Identifier: MIT
#include "guestio/mem/recover.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

namespace guestio::mem {

namespace internal {

/// One entry of the table, as written by the assembly. Each number is relative to its own address.
struct RecoveryEntry {
  std::int32_t instruction;
  std::int32_t fixup;
};

}  // namespace internal

namespace {

using internal::RecoveryEntry;

/// The tables of this process: one for each binary or shared object with a copy of the library.
struct EntryTable {
  const RecoveryEntry* begin;
  const RecoveryEntry* end;
};
constexpr std::size_t kMaxTables = 16;

// Written under the mutex, read by the handler at any moment. A table is valid once its slot is
// filled, and is never removed.
std::mutex install_mutex;
std::array<EntryTable, kMaxTables> tables;
std::atomic<std::size_t> table_count = 0;  // release after the slot, acquire in the handler

/// The previous handlers, set before ours can run.
struct sigaction previous_segv;
struct sigaction previous_bus;
bool handlers_installed = false;  // under the mutex

struct sigaction& previous_action(int signal) noexcept {
  return signal == SIGSEGV ? previous_segv : previous_bus;
}

std::uintptr_t target_of(const std::int32_t& relative) noexcept {
  return reinterpret_cast<std::uintptr_t>(&relative) +
         static_cast<std::uintptr_t>(static_cast<std::intptr_t>(relative));
}

/// The recovery address of the instruction at `address`; 0 if it is not in a table. The linear
/// search takes less time than the delivery of the signal.
std::uintptr_t find_fixup(std::uintptr_t address) noexcept {
  const std::size_t count = table_count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i) {
    for (const RecoveryEntry* entry = tables[i].begin; entry != tables[i].end; ++entry) {
      if (target_of(entry->instruction) == address) return target_of(entry->fixup);
    }
  }
  return 0;
}

auto& instruction_pointer(ucontext_t& context) noexcept {
#if defined(__x86_64__)
  return context.uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return context.uc_mcontext.pc;
#endif
}

/// Whether the running instruction caused the signal. Codes of 0 and below are sent signals. A
/// hardware memory error before any access is no fault of the instruction either.
bool is_fault(int signal, const siginfo_t& info) noexcept {
  return info.si_code > 0 && !(signal == SIGBUS && info.si_code == BUS_MCEERR_AO);
}

/// Terminates the process as without a handler, with its core dump.
void take_default_action(int signal, siginfo_t& info) noexcept {
  struct sigaction action{};
  action.sa_handler = SIG_DFL;
  ::sigaction(signal, &action, nullptr);
  // A faulting instruction runs again after the handler and faults for good. A sent signal is sent
  // again unchanged and arrives after the handler.
  if (is_fault(signal, info)) return;
  ::syscall(SYS_rt_tgsigqueueinfo, ::getpid(), ::syscall(SYS_gettid), signal, &info);
}

void pass_on(int signal, siginfo_t& info, void* context) noexcept {
  struct sigaction& previous = previous_action(signal);
  const struct sigaction action = previous;
  if ((action.sa_flags & SA_SIGINFO) == 0) {
    if (action.sa_handler == SIG_IGN && !is_fault(signal, info)) return;
    if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) {
      return take_default_action(signal, info);
    }
  }
  if ((action.sa_flags & static_cast<int>(SA_RESETHAND)) != 0) {
    previous = {};
    previous.sa_handler = SIG_DFL;
  }
  if ((action.sa_flags & SA_SIGINFO) != 0) {
    action.sa_sigaction(signal, &info, context);
  } else {
    action.sa_handler(signal);
  }
}

void on_signal(int signal, siginfo_t* info, void* raw_context) noexcept {
  const int saved_errno = errno;
  auto& context = *static_cast<ucontext_t*>(raw_context);
  auto& pointer = instruction_pointer(context);
  if (is_fault(signal, *info)) {
    const std::uintptr_t fixup = find_fixup(static_cast<std::uintptr_t>(pointer));
    if (fixup != 0) {
      pointer = static_cast<std::remove_reference_t<decltype(pointer)>>(fixup);
      return;
    }
  }
  pass_on(signal, *info, raw_context);
  errno = saved_errno;
}

Result<> install_handler(int signal) noexcept {
  struct sigaction older{};
  if (::sigaction(signal, nullptr, &older) != 0) return fail_host("query a signal handler");
  const bool ours = (older.sa_flags & SA_SIGINFO) != 0 && older.sa_sigaction == on_signal;
  if (ours) return {};  // a previous attempt stopped half-way
  previous_action(signal) = older;
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  // The mask and the two flags of the previous handler.
  action.sa_mask = older.sa_mask;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | (older.sa_flags & (SA_NODEFER | SA_RESTART));
  if (::sigaction(signal, &action, nullptr) != 0) return fail_host("install a signal handler");
  return {};
}

}  // namespace

Result<> internal::install_recovery_table(const RecoveryEntry* begin,
                                          const RecoveryEntry* end) noexcept {
  const std::scoped_lock lock(install_mutex);
  const std::size_t count =
      table_count.load(std::memory_order_relaxed);  // written under this mutex only
  bool known = begin == end;
  for (std::size_t i = 0; i < count; ++i) known = known || tables[i].begin == begin;
  if (!known) {
    if (count == kMaxTables) {
      return fail(ErrorKind::kTooLarge, "register a table of recoverable instructions", count + 1,
                  kMaxTables);
    }
    tables[count] = {begin, end};
    table_count.store(count + 1, std::memory_order_release);
  }
  if (handlers_installed) return {};
  for (const int signal : {SIGSEGV, SIGBUS}) {
    if (const auto installed = install_handler(signal); !installed) return installed;
  }
  handlers_installed = true;
  return {};
}

}  // namespace guestio::mem
