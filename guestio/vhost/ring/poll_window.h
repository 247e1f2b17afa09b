// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

namespace guestio::vhost {

/// How long a thread polls its rings and completions after work, before it sleeps.
struct PollPolicy {
  enum class Kind : std::uint8_t {
    kAdaptive,  ///< for `max_window` while that pays, else not at all
    kFixed,     ///< for `max_window` each time; 0 is never
    kAlways,    ///< the thread does not sleep while a ring runs
  };
  Kind kind = Kind::kAdaptive;
  /// While only the driver can cause work: about the latency of a wake-up by it.
  std::chrono::nanoseconds max_window = std::chrono::microseconds(32);

  /// The policy while the disk works too: its completion is a cheaper wake-up, and further off.
  [[nodiscard]] constexpr PollPolicy while_disk_works() const noexcept {
    return {kind, max_window / 4};
  }
};

/// Decides the length of each poll window. A poll hit, work before the end of the window, costs
/// less than a sleep and a wake-up, and saves the latency of the wake-up. The share of hits
/// decides: while it is low, a window precedes only every sixteenth sleep, to notice a change. A
/// sleeping thread spends nothing.
///
/// Threads: one.
class PollWindow {
 public:
  using Duration = std::chrono::nanoseconds;

  explicit constexpr PollWindow(PollPolicy policy) noexcept : policy_(policy) {}

  /// The window before the sleep that is due.
  [[nodiscard]] constexpr Duration next() noexcept {
    if (policy_.kind != PollPolicy::Kind::kAdaptive) return policy_.max_window;
    if (hit_share_ >= kWorthIt) return policy_.max_window;
    if (++pauses_without_poll_ < kTrialEvery) return Duration(0);
    pauses_without_poll_ = 0;
    return policy_.max_window;
  }

  /// The result of a window: a poll hit or an empty poll.
  constexpr void note(bool is_hit) noexcept {
    hit_share_ += ((is_hit ? kAll : 0) - hit_share_) / kWeight;
  }

 private:
  static constexpr int kAll = 1024;
  static constexpr int kWorthIt = kAll / 2;
  static constexpr int kWeight = 8;
  static constexpr int kTrialEvery = 16;

  PollPolicy policy_;
  int hit_share_ = 0;
  int pauses_without_poll_ = 0;
};

}  // namespace guestio::vhost
