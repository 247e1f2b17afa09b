// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <type_traits>
#include <utility>

#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::uring {

namespace detail {

template <typename T>
task::Task<> run_then_stop(Loop& loop, task::Task<T> task, std::optional<T>& result) {
  T value = co_await std::move(task);
  result.emplace(std::move(value));
  loop.stop();
}

inline task::Task<> run_then_stop(Loop& loop, task::Task<> task) {
  co_await std::move(task);
  loop.stop();
}

}  // namespace detail

/// Runs `loop` until `task` has ended and returns its result: the bridge from main() to coroutines.
/// Requires: `loop` is not running. Other calls of stop() do not end it. Other operations of the
/// loop may still be in flight.
template <typename T>
T run_task(Loop& loop, task::Task<T> task) {
  task::Scope scope;
  if constexpr (std::is_void_v<T>) {
    scope.spawn(detail::run_then_stop(loop, std::move(task)));
    do loop.run();
    while (scope.running() != 0);
  } else {
    std::optional<T> result;
    scope.spawn(detail::run_then_stop(loop, std::move(task), result));
    do loop.run();
    while (scope.running() != 0);
    return std::move(*result);
  }
}

}  // namespace guestio::uring
