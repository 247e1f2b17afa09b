// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/throttle.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/timer.h"

namespace guestio::disk {

/// Counts of a ThrottleChannel.
struct ThrottleStatistics {
  Counter throttled;  ///< requests that waited
  Counter wait_ns;    ///< their waits, in nanoseconds
};

/// Delays the start of requests on a channel by the limits of a ThrottleGroup.
///
/// 1. Requests of one ThrottleClass start in order. Classes do not wait for each other, unless they
///    share a limit; then the longest waiting request is the next.
/// 2. A flush waits for ThrottleGroup::kPeriod at most, and starts uncounted then.
/// 3. Nothing allocates, except for more waiting requests than ever before.
/// 4. A waiting request is in flight for its caller. A timer runs only while one waits.
///
/// Threads: the timer's. Lifetime: as Channel; the channel below and the timer outlive it.
class ThrottleChannel final : public Channel {
 public:
  ThrottleChannel(Channel& below, task::Timer& timer, std::shared_ptr<ThrottleGroup> group);
  ThrottleChannel(const ThrottleChannel&) = delete;
  ThrottleChannel& operator=(const ThrottleChannel&) = delete;
  ~ThrottleChannel() override;

  void start(Io& io) noexcept override;
  void on_available(std::move_only_function<void()> available) override {
    below_.on_available(std::move(available));
  }
  Result<Lifetime> lifetime() override { return below_.lifetime(); }
  [[nodiscard]] ChannelStatistics statistics() const noexcept override {
    return below_.statistics();
  }

  [[nodiscard]] const ThrottleGroup& group() const noexcept { return *group_; }
  /// Any thread.
  [[nodiscard]] const ThrottleStatistics& throttle_statistics() const noexcept {
    return statistics_;
  }
  /// Waiting requests now.
  [[nodiscard]] std::size_t waiting() const noexcept;

  /// The limits have changed: the waiting requests try again soon.
  void reconsider() noexcept;
  /// From now on no request waits; the waiting ones start soon, in order. They are counted, so that
  /// the next ones wait for up to ThrottleGroup::kMaxDebt longer.
  void let_through() noexcept;
  /// Ends let_through().
  void throttle_again() noexcept { is_open_ = false; }
  /// Calls `is_empty` when no request waits: now, or later. Replaces an earlier function.
  void when_empty(std::move_only_function<void()> is_empty) noexcept;

 private:
  using Time = ThrottleGroup::Time;
  struct Waiting {
    Io* io = nullptr;
    Time since;
    std::uint64_t number = 0;  // in the order of arrival
  };
  /// A queue that keeps its memory.
  class Fifo {
   public:
    [[nodiscard]] bool is_empty() const noexcept { return count_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] const Waiting& front() const noexcept { return entries_[first_]; }
    void push_back(const Waiting& waiting);
    void pop_front() noexcept;

   private:
    std::vector<Waiting> entries_;
    std::size_t first_ = 0;
    std::size_t count_ = 0;
  };

  [[nodiscard]] Fifo& fifo_of(const Io& io) noexcept {
    return waiting_[static_cast<std::size_t>(throttle_class(io.kind))];
  }
  [[nodiscard]] Fifo* find_oldest(unsigned without) noexcept;
  void interrupt() noexcept;
  bool try_start(const Waiting& first, Time now) noexcept;
  void start_waiting() noexcept;
  task::Task<> run_timer();

  Channel& below_;
  task::Timer& timer_;
  const std::shared_ptr<ThrottleGroup> group_;
  ThrottleGroup::Member member_;
  ThrottleStatistics statistics_;
  std::array<Fifo, kThrottleClasses> waiting_;
  std::uint64_t arrivals_ = 0;
  bool is_open_ = false;  // let_through()
  std::move_only_function<void()> when_empty_;

  bool is_sleeping_ = false;
  Time wake_at_ = Time::max();  // end of the present or the next sleep
  std::unique_ptr<task::StopSource> stop_sleep_ = std::make_unique<task::StopSource>();
  task::Scope timing_;
};

}  // namespace guestio::disk
