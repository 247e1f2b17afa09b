// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "guestio/base/error.h"

/// Threads for calls of librados and librbd that block: open, close, lock, size. Such a call cannot
/// be cancelled, and may last as long as the cluster is away. So the threads are detached, and
/// nobody waits for one without a limit.
namespace guestio::disk::helper_threads {

/// Runs `job` on a thread of its own. What it refers to, it owns. Any thread. Errors: host.
Result<> run(std::move_only_function<void()> job);

/// As run(). Without a thread the job, and what it owns, is leaked: it may block its caller.
void run_or_leak(std::move_only_function<void()> job);

/// Waits until no job runs, at most `limit`. Returns whether none does.
bool wait_idle(std::chrono::milliseconds limit);

/// Runs `function` on a thread and returns its value; nothing after `limit`. The function then goes
/// on, and its value is destroyed there. Errors: host.
template <typename Function>
auto call(std::chrono::milliseconds limit, Function function)
    -> Result<std::optional<decltype(function())>> {
  using Value = decltype(function());
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    // protected by mutex
    std::optional<Value> value;
    bool is_abandoned = false;
  };
  const auto shared = std::make_shared<Shared>();
  auto started = run([shared, function = std::move(function)]() mutable {
    std::optional<Value> value(function());
    const std::lock_guard lock(shared->mutex);
    if (!shared->is_abandoned) shared->value = std::move(value);
    shared->changed.notify_one();
  });
  if (!started) return fail(started.error());
  std::unique_lock lock(shared->mutex);
  shared->changed.wait_for(lock, limit, [&] { return shared->value.has_value(); });
  shared->is_abandoned = true;
  return std::exchange(shared->value, std::nullopt);
}

}  // namespace guestio::disk::helper_threads
