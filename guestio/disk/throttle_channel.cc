// SPDX-License-Identifier: MIT
#include "guestio/disk/throttle_channel.h"

#include <algorithm>

#include "guestio/base/check.h"

namespace guestio::disk {

using std::chrono::nanoseconds;

ThrottleChannel::ThrottleChannel(Channel& below, task::Timer& timer,
                                 std::shared_ptr<ThrottleGroup> group)
    : below_(below), timer_(timer), group_(std::move(group)), member_(*group_) {}

ThrottleChannel::~ThrottleChannel() {
  GUESTIO_CHECK(waiting() == 0, "no request waiting on a channel that ends");
}

std::size_t ThrottleChannel::waiting() const noexcept {
  std::size_t all = 0;
  for (const Fifo& fifo : waiting_) all += fifo.size();
  return all;
}

void ThrottleChannel::start(Io& io) noexcept {
  Fifo& fifo = fifo_of(io);
  if (fifo.is_empty() && !group_->is_limited(throttle_class(io.kind))) return below_.start(io);
  const Time now = group_->now();
  const Waiting waiting{&io, now, arrivals_++};
  const Time wake_at = wake_at_;
  if (fifo.is_empty() && try_start(waiting, now)) return below_.start(io);
  fifo.push_back(waiting);
  ++statistics_.throttled;
  if (timing_.running() == 0) {
    timing_.spawn(run_timer());
  } else if (wake_at_ < wake_at && is_sleeping_) {
    interrupt();
  }
}

/// Returns whether it may start; otherwise wake_at_ is in time for its next attempt.
bool ThrottleChannel::try_start(const Waiting& first, Time now) noexcept {
  const Io& io = *first.io;
  if (is_open_) {
    group_->start_now(member_, io, now);
    return true;
  }
  const Time flush_limit = first.since + ThrottleGroup::kPeriod;
  const bool is_flush = io.kind == IoKind::kFlush;
  if (is_flush && now >= flush_limit) {
    group_->start_uncounted(member_, io);
    return true;
  }
  const nanoseconds wait = group_->try_start(member_, io, now);
  if (wait == nanoseconds(0)) return true;
  wake_at_ = std::min(wake_at_, is_flush ? std::min(now + wait, flush_limit) : now + wait);
  return false;
}

/// The class whose first request waits longest, except those of the bits of `without`.
ThrottleChannel::Fifo* ThrottleChannel::find_oldest(unsigned without) noexcept {
  Fifo* oldest = nullptr;
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    Fifo& fifo = waiting_[i];
    if ((without >> i & 1U) != 0 || fifo.is_empty()) continue;
    if (oldest == nullptr || fifo.front().number < oldest->front().number) oldest = &fifo;
  }
  return oldest;
}

void ThrottleChannel::start_waiting() noexcept {
  const Time now = group_->now();
  unsigned refused = 0;
  while (Fifo* const fifo = find_oldest(refused)) {
    const Waiting first = fifo->front();
    if (!try_start(first, now)) {
      refused |= 1U << static_cast<unsigned>(fifo - waiting_.data());
      continue;
    }
    fifo->pop_front();
    statistics_.wait_ns += static_cast<std::uint64_t>(nanoseconds(now - first.since).count());
    below_.start(*first.io);
  }
}

task::Task<> ThrottleChannel::run_timer() {
  while (waiting() != 0) {
    const nanoseconds pause = std::max(nanoseconds(wake_at_ - group_->now()), nanoseconds(1));
    is_sleeping_ = true;
    co_await timer_.sleep(pause, stop_sleep_->token());
    is_sleeping_ = false;
    wake_at_ = Time::max();
    start_waiting();
  }
  if (when_empty_) std::exchange(when_empty_, nullptr)();
}

void ThrottleChannel::interrupt() noexcept {
  const auto ended = std::exchange(stop_sleep_, std::make_unique<task::StopSource>());
  ended->request_stop();
}

void ThrottleChannel::reconsider() noexcept {
  if (waiting() == 0) return;
  wake_at_ = Time();
  if (is_sleeping_) interrupt();
}

void ThrottleChannel::let_through() noexcept {
  is_open_ = true;
  reconsider();
}

void ThrottleChannel::when_empty(std::move_only_function<void()> is_empty) noexcept {
  if (waiting() == 0) {
    when_empty_ = nullptr;
    is_empty();
  } else {
    when_empty_ = std::move(is_empty);
  }
}

void ThrottleChannel::Fifo::push_back(const Waiting& waiting) {
  constexpr std::size_t kFirstEntries = 64;
  if (count_ == entries_.size()) {
    std::ranges::rotate(entries_, entries_.begin() + static_cast<std::ptrdiff_t>(first_));
    first_ = 0;
    entries_.resize(std::max(kFirstEntries, 2 * entries_.size()));
  }
  entries_[(first_ + count_++) % entries_.size()] = waiting;
}

void ThrottleChannel::Fifo::pop_front() noexcept {
  first_ = (first_ + 1) % entries_.size();
  --count_;
}

}  // namespace guestio::disk
