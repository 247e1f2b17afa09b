// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/cpu_occupancy.h"
#include "guestio/vhost/ring/poll_window.h"

namespace guestio::vhost {

class Vring;

/// Looks at the rings of one thread in each iteration of its loop, and decides between two
/// iterations whether the thread sleeps.
///
///   work ──► look without end of news ──► nothing new: look on for PollWindow::next()
///     ▲                                      │ over
///     └── kick, completion ◄── asleep ◄── ask all drivers for kicks, look once more
///
/// While it looks, drivers need not kick, and completions cost no system call. Threads of the
/// process that share a processor take turns: after each look in vain it is another one's, and
/// after 100 µs of work.
///
/// Of several rings, one whose looks have long been in vain rests: its driver is asked for kicks,
/// and until one comes it is not looked at. Looking has then cost as much as the kick will.
///
/// Threads: the loop's. Lifetime: outlives its rings.
class RingPoller final : private uring::Poller {
 public:
  RingPoller(uring::Loop& loop, PollPolicy policy);
  RingPoller(const RingPoller&) = delete;
  RingPoller& operator=(const RingPoller&) = delete;
  ~RingPoller() = default;

  void add(Vring& ring);
  void remove(Vring& ring) noexcept;
  /// A ring that may have rested is to be looked at again.
  void wake(Vring& ring) noexcept;
  /// What rings tell of their chains.
  void note_popped() noexcept {
    has_work_ = true;
    ++in_flight_;
    ++chains_taken_;
  }
  void note_returned() noexcept {
    has_work_ = true;
    --in_flight_;
  }

  /// Pauses that ended in a sleep, and looks that made one unnecessary.
  struct Counters {
    Counter sleeps;
    Counter poll_hits;
    Counter empty_polls;
    Counter parked;  ///< rings that are left out of the looking now
  };
  /// Any thread.
  [[nodiscard]] const Counters& counters() const noexcept { return counters_; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { kWorking, kPolling, kAsleep };

  bool poll() noexcept override;
  struct Entry {
    Vring* ring;
    std::uint32_t empty_polls = 0;
  };

  void poll_all() noexcept;
  void park(std::size_t place) noexcept;
  bool prepare_sleep() noexcept;
  void make_room() noexcept;
  void check_registered_memory() noexcept;
  void end_turn_in_time() noexcept;

  const bool never_sleeps_;
  PollWindow for_driver_;  // nothing is out
  PollWindow for_disk_;
  PollWindow* active_window_ = nullptr;  // in kLooking: whose time it is
  std::vector<Entry> rings_;             // that are looked at
  std::vector<Vring*> parked_;           // that are not, until they are kicked
  State state_ = State::kAsleep;
  bool has_work_ = false;
  std::uint64_t in_flight_ = 0;
  std::uint64_t chains_taken_ = 0;  // ever
  std::uint32_t polls_ = 0;         // where the thread never sleeps
  Clock::duration poll_for_{};
  Clock::time_point poll_until_;  // not set before the pause begins
  Counters counters_;
  CpuOccupancy occupancy_;        // from waking up to falling asleep
  Clock::time_point turn_began_;  // with work, on a processor that is shared; or not set
};

}  // namespace guestio::vhost
