// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "guestio/uring/loop.h"

namespace guestio::disk {

/// One wait of a loop at a time, for a descriptor or for a while, that its owner may drop at any
/// moment: the operation then ends by itself. Uring's awaitables need a coroutine that outlives
/// them, and a channel has none.
///
/// 1. The callback gets the poll events, 0 after a sleep, or -errno. It may begin the next wait and
/// may destroy this object.
/// 2. No callback after destruction.
/// 3. A dropped operation is in flight for another iteration of the loop.
///
/// Threads: the loop's. Lifetime: the loop outlives it.
class LoopEvent {
 public:
  using Callback = std::move_only_function<void(std::int32_t result)>;

  LoopEvent(uring::Loop& loop, Callback callback);
  LoopEvent(const LoopEvent&) = delete;
  LoopEvent& operator=(const LoopEvent&) = delete;
  ~LoopEvent();

  /// Waits for one of `events` (POLLIN and so on). Requires: !is_waiting().
  void poll(int fd, unsigned events);
  /// Requires: !is_waiting().
  void sleep(std::chrono::nanoseconds duration);
  [[nodiscard]] bool is_waiting() const noexcept;

 private:
  class State;

  uring::Loop& loop_;
  State* state_;  // owns itself while in flight or in its callback
};

}  // namespace guestio::disk
