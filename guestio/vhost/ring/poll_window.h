// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

namespace guestio::vhost {

/// How long a thread looks at its rings and completions after work before it sleeps.
struct PollPolicy {
  enum class Kind : std::uint8_t {
    kAdaptive,  ///< for `most` while that pays, else not at all
    kFixed,     ///< for `most` each time; 0 is never
    kAlways,    ///< the thread does not sleep while a ring runs
  };
  Kind kind = Kind::kAdaptive;
  /// While only the driver can bring news: being woken by it takes about so long.
  std::chrono::nanoseconds max_window = std::chrono::microseconds(32);

  /// The same for while the disk works too, whose completion wakes more cheaply and is further off.
  [[nodiscard]] constexpr PollPolicy while_disk_works() const noexcept {
    return {kind, max_window / 4};
  }
};

/// Decides how long to look this time. Looking pays when work comes before the time is over: it
/// costs less than going to sleep and being woken, and nobody waits for the waking. The share of
/// looks that found work is kept; while it is low only every sixteenth sleep is preceded by a look,
/// to notice when that changes. A thread that is not woken spends nothing.
///
/// Threads: one.
class PollWindow {
 public:
  using Duration = std::chrono::nanoseconds;

  explicit constexpr PollWindow(PollPolicy policy) noexcept : policy_(policy) {}

  /// For the pause that begins now.
  [[nodiscard]] constexpr Duration next() noexcept {
    if (policy_.kind != PollPolicy::Kind::kAdaptive) return policy_.max_window;
    if (hit_share_ >= kWorthIt) return policy_.max_window;
    if (++pauses_without_poll_ < kTrialEvery) return Duration(0);
    pauses_without_poll_ = 0;
    return policy_.max_window;
  }

  /// What became of a look: work came before its time was over, or not.
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
