// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/ring_poller.h"

#include <sched.h>

#include <utility>

#include "guestio/vhost/ring/vring.h"

namespace guestio::vhost {

namespace {

/// How long a thread works without a pause on a processor that another of ours wants: some batches
/// of a disk in memory, and a multiple of what changing over costs.
constexpr auto kTurn = std::chrono::microseconds(100);

/// A look takes some nanoseconds, a kick some microseconds of both sides' time.
constexpr std::uint32_t kLooksBeforeRest = 1024;

/// Some hundredths of a second of looks in vain, a second of work. Rings whose thread sleeps ask
/// what has become of guest memory before they do.
constexpr std::uint32_t kPollsBetweenLookingAfter = std::uint32_t{1} << 20;

}  // namespace

RingPoller::RingPoller(uring::Loop& loop, PollPolicy policy)
    : never_sleeps_(policy.kind == PollPolicy::Kind::kAlways),
      for_driver_(policy),
      for_disk_(policy.while_disk_works()) {
  loop.add_poller(*this);
}

void RingPoller::add(Vring& ring) {
  // Room for all in both lists, so that changing over takes no memory.
  const std::size_t all = rings_.size() + parked_.size() + 1;
  parked_.reserve(all);
  rings_.reserve(all);
  rings_.push_back({&ring});
}

void RingPoller::remove(Vring& ring) noexcept {
  std::erase(parked_, &ring);
  counters_.parked.set(parked_.size());
  std::erase_if(rings_, [&ring](const Entry& entry) { return entry.ring == &ring; });
  if (rings_.empty()) occupancy_.leave();
}

void RingPoller::wake(Vring& ring) noexcept {
  if (std::erase(parked_, &ring) == 0) return;
  counters_.parked.set(parked_.size());
  rings_.push_back({&ring});
  // Where the thread slept all are asked for kicks, as this one is already.
  if (state_ == State::kPolling) ring.suppress_notifications();
}

void RingPoller::poll_all() noexcept {
  // By index: a ring may go away, never come, while it is looked at.
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    Vring* const ring = rings_[i].ring;
    const std::uint64_t taken = chains_taken_;
    ring->look();
    if (i >= rings_.size() || rings_[i].ring != ring) continue;
    if (chains_taken_ != taken || ring->has_chains_in_flight()) {
      rings_[i].empty_polls = 0;
    } else if (++rings_[i].empty_polls >= kLooksBeforeRest) {
      park(i);
    }
  }
}

/// Leaves a ring out of the looking, unless it is the only one: that is what sleeping is for.
void RingPoller::park(std::size_t place) noexcept {
  Vring* const ring = rings_[place].ring;
  rings_[place].empty_polls = 0;
  if (never_sleeps_ || rings_.size() == 1 || !ring->may_park()) return;
  // As before a sleep: asked for before the last look, so that no chain can slip in between unseen.
  const bool has_nothing = ring->enable_notifications();
  if (place >= rings_.size() || rings_[place].ring != ring) return;
  if (!has_nothing) return ring->suppress_notifications();
  rings_[place] = rings_.back();
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
    if (!has_found) make_room();
    if (++polls_ % kPollsBetweenLookingAfter == 0) check_registered_memory();
    return true;
  }
  if (!has_found && state_ == State::kPolling) {
    // The clock is read in pauses only, not while there is work.
    if (poll_until_ == Clock::time_point()) poll_until_ = Clock::now() + poll_for_;
    if (Clock::now() < poll_until_) {
      make_room();
      return true;
    }
    ++counters_.empty_polls;
    active_window_->note(false);
    return prepare_sleep();
  }
  if (!has_found && state_ == State::kAsleep) return prepare_sleep();
  active_window_ = in_flight_ == 0 ? &for_driver_ : &for_disk_;
  const PollWindow::Duration window = active_window_->next();
  // Without a look the answers are shown, new requests submitted and the sleep begun in one call.
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
  // Asked for before the last look, so that no chain can slip in between unseen.
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

void RingPoller::make_room() noexcept {
  if (occupancy_.is_alone()) return;
  ::sched_yield();
  turn_began_ = {};
}

/// A thread that finds work in each look never makes room by itself, and the scheduler takes
/// milliseconds to.
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
