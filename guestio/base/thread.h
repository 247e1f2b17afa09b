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

/// Starting threads, with failure as an Error.
namespace guestio {

/// Blocks the calling thread's signals for its lifetime. Synchronous faults (SIGSEGV, SIGBUS, ...),
/// needed by mem/recover.h, and a profiler's signal stay unblocked.
class BlockedSignals {
 public:
  BlockedSignals() noexcept;
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals();

 private:
  sigset_t before_;
};

/// Names the thread for ps and debuggers. Truncated to the kernel's 15 bytes.
void set_thread_name(const std::string& name) noexcept;

/// Runs `function`, with an optional std::stop_token parameter, on a thread called `name`. Signals
/// are blocked there (BlockedSignals), so the program's own signal threads receive them, whenever
/// started. Errors: host (limits on processes: ulimit -u, the cgroup's pids.max).
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
