// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/cpu_occupancy.h"
#include "guestio/vhost/ring/poll_window.h"

namespace guestio::vhost {

/// Polls the rings of one thread in each iteration of its loop, and decides between two iterations
/// whether the thread sleeps.
///
///   work ──► poll ──► nothing found: poll on for PollWindow::next()
///     ▲                          │ window over
///     └── kick, completion ◄── asleep ◄── enable notifications, poll once more
///
/// While the thread polls, drivers need not kick, and completions cost no system call. Threads of
/// the process on one processor take turns: a thread yields after each empty poll, and after 100 µs
/// of work.
///
/// Of several rings, one with many empty polls in a row is parked: its notifications are enabled,
/// and it is not polled until its driver kicks. By then its polls have cost as much as the kick
/// will.
///
/// Threads: the loop's. Lifetime: outlives its rings.
class RingPoller final : private uring::Poller {
 public:
  /// A ring as the poller sees it. An interface, so that the poller and Vring do not include each
  /// other. It costs one virtual call for each ring and iteration, not one for each request.
  class Client {
   public:
    /// Lets the device take available chains. Returns whether chains are in flight.
    virtual bool poll() noexcept = 0;
    /// Tells the driver that kicks are not needed.
    virtual void suppress_notifications() noexcept = 0;
    /// Asks the driver for kicks, then polls once more, for chains that came without one. Returns
    /// whether there were none.
    virtual bool enable_notifications() noexcept = 0;
    /// Whether a kick will announce all work.
    [[nodiscard]] virtual bool may_park() const noexcept = 0;
    /// Looks for losses of registered guest memory that no request has met. One system call for
    /// each region: seldom.
    virtual void check_registered_memory() noexcept = 0;

   protected:
    ~Client() = default;
  };

  RingPoller(uring::Loop& loop, PollPolicy policy);
  RingPoller(const RingPoller&) = delete;
  RingPoller& operator=(const RingPoller&) = delete;
  ~RingPoller() = default;

  void add(Client& ring);
  void remove(Client& ring) noexcept;
  /// Polls the ring from now on, if it was parked.
  void unpark(Client& ring) noexcept;
  // The rings report their chains.
  void note_popped() noexcept {
    has_work_ = true;
    ++in_flight_;
    ++chains_popped_;
  }
  void note_returned() noexcept {
    has_work_ = true;
    --in_flight_;
  }

  struct Counters {
    Counter sleeps;       ///< poll windows and pauses that ended in a sleep
    Counter poll_hits;    ///< poll windows that found work
    Counter empty_polls;  ///< poll windows that found none
    Counter parked;       ///< rings, now
  };
  /// Any thread.
  [[nodiscard]] const Counters& counters() const noexcept { return counters_; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { kWorking, kPolling, kAsleep };

  struct Entry {
    Client* ring;
    std::uint32_t empty_polls = 0;  // in a row
  };

  bool poll() noexcept override;
  void poll_all() noexcept;
  void park(std::size_t index) noexcept;
  bool prepare_sleep() noexcept;
  void yield() noexcept;
  void end_turn_in_time() noexcept;
  void check_registered_memory() noexcept;

  const bool never_sleeps_;
  PollWindow driver_window_;  // nothing is in flight
  PollWindow disk_window_;
  PollWindow* active_window_ = nullptr;  // in kPolling
  std::vector<Entry> rings_;             // polled
  std::vector<Client*> parked_;
  State state_ = State::kAsleep;
  bool has_work_ = false;
  std::uint64_t in_flight_ = 0;      // chains
  std::uint64_t chains_popped_ = 0;  // ever
  std::uint32_t polls_ = 0;          // where the thread never sleeps
  Clock::duration poll_for_{};
  Clock::time_point poll_until_;  // unset before the first empty poll of a window
  Counters counters_;
  CpuOccupancy occupancy_;        // from waking up to falling asleep
  Clock::time_point turn_began_;  // of work on a shared processor; or unset
};

}  // namespace guestio::vhost
