// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring_poller.h"

#include <sched.h>

#include <utility>

#include "guestio/vhost/vring.h"

namespace guestio::vhost {

namespace {

/// How long a thread works without a pause on a processor that another of ours wants: some batches
/// of a disk in memory, and a multiple of what changing over costs.
constexpr auto kTurn = std::chrono::microseconds(100);

}  // namespace

RingPoller::RingPoller(uring::Loop& loop, PollPolicy policy)
    : never_sleeps_(policy.kind == PollPolicy::Kind::kAlways),
      for_driver_(policy),
      for_disk_(policy.while_disk_works()) {
  loop.add_poller(*this);
}

void RingPoller::add(Vring& ring) { rings_.push_back(&ring); }

void RingPoller::remove(Vring& ring) noexcept {
  std::erase(rings_, &ring);
  if (rings_.empty()) presence_.leave();
}

bool RingPoller::look_at_all() noexcept {
  // By index: a ring may go away, never come, while it is looked at.
  for (std::size_t i = 0; i < rings_.size(); ++i) rings_[i]->look();
  return std::exchange(has_work_, false);
}

bool RingPoller::poll() noexcept {
  if (rings_.empty()) return false;
  presence_.enter();
  end_turn_in_time();
  const bool has_found = look_at_all();
  if (has_found && state_ == State::kLooking) {
    ++counters_.looks_that_found;
    looked_for_->note(true);
  }
  if (never_sleeps_) {
    if (!has_found) make_room();
    return true;
  }
  if (!has_found && state_ == State::kLooking) {
    // The clock is read in pauses only, not while there is work.
    if (look_until_ == Clock::time_point()) look_until_ = Clock::now() + look_for_;
    if (Clock::now() < look_until_) {
      make_room();
      return true;
    }
    ++counters_.looks_in_vain;
    looked_for_->note(false);
    return prepare_sleep();
  }
  if (!has_found && state_ == State::kAsleep) return prepare_sleep();
  looked_for_ = chains_out_ == 0 ? &for_driver_ : &for_disk_;
  const PollWindow::Duration window = looked_for_->next();
  // Without a look the answers are shown, new requests submitted and the sleep begun in one call.
  if (window == PollWindow::Duration(0)) return prepare_sleep();
  look_for_ = window;
  look_until_ = {};
  if (state_ == State::kAsleep) {
    for (Vring* const ring : rings_) ring->ignore_kicks();
  }
  state_ = State::kLooking;
  return true;
}

/// Returns whether there is work after all.
bool RingPoller::prepare_sleep() noexcept {
  state_ = State::kAsleep;
  // Asked for before the last look, so that no chain can slip in between unseen.
  for (std::size_t i = 0; i < rings_.size(); ++i) rings_[i]->ask_for_kicks();
  if (std::exchange(has_work_, false)) return true;
  ++counters_.sleeps;
  presence_.leave();
  turn_began_ = {};
  return false;
}

void RingPoller::make_room() noexcept {
  if (presence_.is_alone()) return;
  ::sched_yield();
  turn_began_ = {};
}

/// A thread that finds work in each look never makes room by itself, and the scheduler takes
/// milliseconds to.
void RingPoller::end_turn_in_time() noexcept {
  if (presence_.is_alone()) {
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
