// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/ring_poller.h"

#include <sched.h>

#include <utility>

namespace guestio::vhost {

namespace {

/// How long a thread works without a pause on a processor that another thread of ours wants: some
/// batches of a disk in memory, and a multiple of the cost of a context switch.
constexpr auto kTurn = std::chrono::microseconds(100);

/// A poll takes some nanoseconds, a kick some microseconds of both sides.
constexpr std::uint32_t kMaxEmptyPolls = 1024;

/// At most 0.1 s of empty polls, or a second of work. Rings of threads that sleep check before they
/// sleep.
constexpr std::uint32_t kPollsPerMemoryCheck = std::uint32_t{1} << 20;

}  // namespace

RingPoller::RingPoller(uring::Loop& loop, PollPolicy policy)
    : never_sleeps_(policy.kind == PollPolicy::Kind::kAlways),
      driver_window_(policy),
      disk_window_(policy.while_disk_works()) {
  loop.add_poller(*this);
}

void RingPoller::add(Client& ring) {
  // Room for all in both lists: parking allocates nothing.
  const std::size_t all = rings_.size() + parked_.size() + 1;
  parked_.reserve(all);
  rings_.reserve(all);
  rings_.push_back({&ring});
}

void RingPoller::remove(Client& ring) noexcept {
  std::erase(parked_, &ring);
  counters_.parked.set(parked_.size());
  std::erase_if(rings_, [&ring](const Entry& entry) { return entry.ring == &ring; });
  if (rings_.empty()) occupancy_.leave();
}

void RingPoller::unpark(Client& ring) noexcept {
  if (std::erase(parked_, &ring) == 0) return;
  counters_.parked.set(parked_.size());
  rings_.push_back({&ring});
  // In a sleeping thread the notifications of all rings are enabled, as this one's are already.
  if (state_ == State::kPolling) ring.suppress_notifications();
}

void RingPoller::poll_all() noexcept {
  // By index: a ring may be removed, never added, during its poll.
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    Client* const ring = rings_[i].ring;
    const std::uint64_t popped = chains_popped_;
    const bool has_chains_in_flight = ring->poll();
    if (i >= rings_.size() || rings_[i].ring != ring) continue;
    if (chains_popped_ != popped || has_chains_in_flight) {
      rings_[i].empty_polls = 0;
    } else if (++rings_[i].empty_polls >= kMaxEmptyPolls) {
      park(i);
    }
  }
}

/// Parks a ring, unless it is the only one: then the thread sleeps instead.
void RingPoller::park(std::size_t index) noexcept {
  Client* const ring = rings_[index].ring;
  rings_[index].empty_polls = 0;
  if (never_sleeps_ || rings_.size() == 1 || !ring->may_park()) return;
  // As before a sleep: notifications first, then the last poll, so that no chain is missed.
  const bool has_nothing = ring->enable_notifications();
  if (index >= rings_.size() || rings_[index].ring != ring) return;
  if (!has_nothing) return ring->suppress_notifications();
  rings_[index] = rings_.back();
  rings_.pop_back();
  parked_.push_back(ring);
  counters_.parked.set(parked_.size());
}

bool RingPoller::poll() noexcept {
  if (rings_.empty()) return false;
  occupancy_.enter();
  end_turn_in_time();
  poll_all();
  const bool has_found = std::exchange(has_work_, false);
  if (has_found && state_ == State::kPolling) {
    ++counters_.poll_hits;
    active_window_->note(true);
  }
  if (never_sleeps_) {
    if (!has_found) yield();
    if (++polls_ % kPollsPerMemoryCheck == 0) check_registered_memory();
    return true;
  }
  if (!has_found && state_ == State::kPolling) {
    // The clock is read in pauses only, not while there is work.
    if (poll_until_ == Clock::time_point()) poll_until_ = Clock::now() + poll_for_;
    if (Clock::now() < poll_until_) {
      yield();
      return true;
    }
    ++counters_.empty_polls;
    active_window_->note(false);
    return prepare_sleep();
  }
  if (!has_found && state_ == State::kAsleep) return prepare_sleep();
  active_window_ = in_flight_ == 0 ? &driver_window_ : &disk_window_;
  const PollWindow::Duration window = active_window_->next();
  // Without a window one system call publishes the used entries, submits and sleeps.
  if (window == PollWindow::Duration(0)) return prepare_sleep();
  poll_for_ = window;
  poll_until_ = {};
  if (state_ == State::kAsleep) {
    for (const Entry& entry : rings_) entry.ring->suppress_notifications();
  }
  state_ = State::kPolling;
  return true;
}

/// Returns whether there is work after all.
bool RingPoller::prepare_sleep() noexcept {
  state_ = State::kAsleep;
  // Notifications first, then the last poll, so that no chain is missed.
  for (std::size_t i = 0; i < rings_.size(); ++i) (void)rings_[i].ring->enable_notifications();
  if (std::exchange(has_work_, false)) return true;
  ++counters_.sleeps;
  occupancy_.leave();
  turn_began_ = {};
  return false;
}

void RingPoller::check_registered_memory() noexcept {
  for (const Entry& entry : rings_) entry.ring->check_registered_memory();
}

void RingPoller::yield() noexcept {
  if (occupancy_.is_alone()) return;
  ::sched_yield();
  turn_began_ = {};
}

/// A thread with work in each poll would never yield, and the scheduler waits milliseconds.
void RingPoller::end_turn_in_time() noexcept {
  if (occupancy_.is_alone()) {
    turn_began_ = {};
    return;
  }
  const auto now = Clock::now();
  if (turn_began_ == Clock::time_point()) turn_began_ = now;
  if (now - turn_began_ < kTurn) return;
  ::sched_yield();
  turn_began_ = Clock::now();
}

}  // namespace guestio::vhost
