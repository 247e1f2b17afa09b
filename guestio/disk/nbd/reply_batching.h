// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace guestio::disk {

/// Decides how long replies gather in the socket before they are received. A server that replies
/// to one request after the other wakes this thread for each of them, this thread its guest, and
/// the guest this thread: wake-ups then cost more than the requests. While many requests are in
/// flight, a quarter of their replies may gather, and the server still has work for the time.
///
/// Threads: one.
class ReplyBatching {
 public:
  using Clock = std::chrono::steady_clock;
  using Duration = std::chrono::nanoseconds;

  /// The pause before the next receive; 0: it follows the next reply. `replies` were received by
  /// `now`, and of `in_flight` others at most `max_gathered` fit into the socket.
  [[nodiscard]] constexpr Duration next(Clock::time_point now, std::uint64_t replies,
                                        std::size_t in_flight, std::size_t max_gathered) noexcept {
    if (replies != 0) note(now, replies);
    if (in_flight == 0) is_busy_ = false;
    const auto gathered = static_cast<std::int64_t>(std::min(in_flight / 4, max_gathered));
    if (gathered < 2 || interval_ == Duration(0)) return Duration(0);
    const Duration pause = std::min(interval_ * gathered, kMaxPause);
    return pause < 2 * interval_ || pause < kMinPause ? Duration(0) : pause;
  }

 private:
  // Below that the next reply is as good as here.
  static constexpr Duration kMinPause = std::chrono::microseconds(10);
  static constexpr Duration kMaxPause = std::chrono::microseconds(100);
  static constexpr int kWeightOfShorter = 2;
  static constexpr int kWeightOfLonger = 64;

  constexpr void note(Clock::time_point now, std::uint64_t replies) noexcept {
    const Duration interval = (now - last_) / static_cast<std::int64_t>(replies);
    last_ = now;
    // Not the time in which nothing was in flight.
    if (!std::exchange(is_busy_, true)) return;
    // A server that waits for requests is slower than it can be: the shorter intervals count.
    const bool is_shorter = interval_ == Duration(0) || interval < interval_;
    interval_ += (interval - interval_) / (is_shorter ? kWeightOfShorter : kWeightOfLonger);
  }

  Clock::time_point last_{};  // of the last receive with a reply
  Duration interval_{};       // between replies, a moving average; 0: unknown
  bool is_busy_ = false;      // since last_
};

}  // namespace guestio::disk
