// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

#include "guestio/base/counter.h"

/// Retries after a resource shortage of the host (errno_class.h). To the guest it is no failure of
/// its disk.
///
/// 1. The ring tries again, after pauses of 1, 2 and 4 ms.
/// 2. Then the thread makes the call itself: that needs neither a worker thread nor memory of the
///    ring. The thread's other disks wait for it, so it is the last resort.
/// 3. A call with a shortage is repeated after pauses of up to a quarter of a second, for
///    about half a minute.
/// 4. After that the shortage is the operation's result, so nothing waits forever.
namespace guestio::disk {

/// Shortages of one channel. Threads: the channel's; `met` can be read by any.
struct Shortages {
  using Clock = std::chrono::steady_clock;

  Counter met;                      ///< attempts with a shortage
  Clock::time_point lasts_until{};  ///< no pauses for the ring until then
};

/// The attempts of one operation.
///
///     for (ShortageRetry retry(shortages);;) {
///       result = retry.is_call() ? call() : submit to the ring;
///       if (!is_shortage(result) || !retry.count_shortage()) break;
///       sleep(retry.pause());
///     }
class ShortageRetry {
 public:
  using Clock = Shortages::Clock;
  static constexpr std::uint32_t kRingAttempts = 4;
  static constexpr std::uint32_t kCalls = 128;
  static constexpr std::chrono::milliseconds kLongestPause{256};
  /// How long the pauses for the ring are skipped after they did not help.
  static constexpr std::chrono::milliseconds kLasting{1000};

  explicit ShortageRetry(Shortages& shortages) noexcept : shortages_(shortages) {}
  /// Part of the operation is done: the rest has all its attempts again.
  void reset() noexcept { attempts_ = 0; }

  /// Whether the next attempt is a call of the thread itself.
  [[nodiscard]] bool is_call() const noexcept { return attempts_ >= kRingAttempts; }
  /// Counts an attempt with a shortage. False: it was the last, and the shortage is the result.
  [[nodiscard]] bool count_shortage(Clock::time_point now = Clock::now()) noexcept;
  /// Before the next attempt.
  [[nodiscard]] std::chrono::milliseconds pause() const noexcept { return pause_; }

 private:
  Shortages& shortages_;
  std::uint32_t attempts_ = 0;
  std::chrono::milliseconds pause_{0};
};

}  // namespace guestio::disk
