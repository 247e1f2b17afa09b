// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <csignal>
#include <functional>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "guestio/base/error.h"

/// How threads are started here: a thread that cannot be had is an error like any other.
namespace guestio {

/// Blocks the calling thread's signals while it exists, all but those that report a fault of the
/// thread itself (SIGSEGV, SIGBUS, ...), which mem/recover.h catches, and a profiler's.
class BlockedSignals {
 public:
  BlockedSignals() noexcept;
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals();

 private:
  sigset_t before_;
};

/// For the kernel's and the debugger's lists; cut to the 15 bytes that the kernel keeps.
void set_thread_name(const std::string& name) noexcept;

/// Runs `function`, which may take a std::stop_token, on a thread of that name. Signals are blocked
/// there (BlockedSignals): they go to threads that the program has for them, whether those were set
/// up before or after. Errors: host (a limit on processes: ulimit -u, the cgroup's pids.max).
template <typename Function>
[[nodiscard]] Result<std::jthread> start_thread(std::string name, Function function) {
  const BlockedSignals blocked;
  try {
    return std::jthread([name = std::move(name),
                         function = std::move(function)](const std::stop_token& stop) mutable {
      set_thread_name(name);
      if constexpr (std::invocable<Function, const std::stop_token&>) {
        std::invoke(function, stop);
      } else {
        std::invoke(function);
      }
    });
  } catch (const std::system_error& refusal) {
    return fail(Error::host(refusal.code().value(),
                            "start a thread (limits: ulimit -u, the cgroup's pids.max)"));
  }
}

}  // namespace guestio
