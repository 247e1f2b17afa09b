// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

#include "guestio/base/counter.h"

/// What is done about a shortage of the host (errno_class.h), which no guest must take for a
/// failure of its disk.
///
/// An operation that meets one is tried again by the ring, after pauses of 1, 2 and 4 ms. Then the
/// thread makes the call itself: that needs neither a thread nor memory of the ring's, but the
/// thread's other disks wait for it, so it is the last resort. A call that meets a shortage too is
/// made again, after pauses of up to a quarter of a second, for about half a minute; after that the
/// shortage is the operation's result, so that nothing waits without end.
namespace guestio::disk {

/// What one channel knows of shortages. Threads: the channel's; `met` can be read by any.
struct Shortages {
  using Clock = std::chrono::steady_clock;

  Counter met;                      ///< attempts that a shortage has kept from being made
  Clock::time_point lasts_until{};  ///< until then nobody pauses for the ring again
};

/// One operation's attempts.
///
///     for (ShortageRetry retry(shortages);;) {
///       result = retry.is_call() ? call() : ask the ring;
///       if (!is_shortage(result) || !retry.note()) break;
///       sleep(retry.pause());
///     }
class ShortageRetry {
 public:
  using Clock = Shortages::Clock;
  static constexpr std::uint32_t kRingAttempts = 4;
  static constexpr std::uint32_t kCalls = 128;
  static constexpr std::chrono::milliseconds kLongestPause{256};
  /// How long it is taken for granted, once the pauses did not help, that they would not.
  static constexpr std::chrono::milliseconds kLasting{1000};

  explicit ShortageRetry(Shortages& shortages) noexcept : shortages_(shortages) {}
  /// Some of the operation has been done: what is left has all its attempts again.
  void start_again() noexcept { attempts_ = 0; }

  /// Whether the next attempt is a call of the thread itself.
  [[nodiscard]] bool is_call() const noexcept { return attempts_ >= kRingAttempts; }
  /// An attempt met a shortage. False: it was the last, and the shortage is the result.
  [[nodiscard]] bool note(Clock::time_point now = Clock::now()) noexcept;
  /// To be waited before the next attempt.
  [[nodiscard]] std::chrono::milliseconds pause() const noexcept { return pause_; }

 private:
  Shortages& shortages_;
  std::uint32_t attempts_ = 0;
  std::chrono::milliseconds pause_{0};
};

}  // namespace guestio::disk
