// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_budget.h"

#include <algorithm>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::buf::internal {

OverflowLender::~OverflowLender() {
  GUESTIO_CHECK(free_ == overflow_ && queue_.empty(),
                "all overflow returned before the end of its budget");
}

std::size_t OverflowLender::free_overflow() const noexcept {
  const std::lock_guard lock(mutex_);
  return free_;
}

std::size_t OverflowLender::high_water() const noexcept {
  const std::lock_guard lock(mutex_);
  return high_water_;
}

Result<> OverflowLender::allot(std::size_t quota, std::size_t overflow) {
  const std::lock_guard lock(mutex_);
  const std::size_t left = total_pages_ - allotted_;
  if (quota > left || overflow > left - quota) {
    return fail(ErrorKind::kTooLarge, "bounce memory in total", quota + overflow, left);
  }
  allotted_ += quota + overflow;
  free_ += overflow;
  overflow_.store(overflow_.load(std::memory_order_relaxed) + overflow, std::memory_order_relaxed);
  return {};
}

void OverflowLender::dequeue(BounceQueueEntry& entry) noexcept {
  if (!entry.is_linked()) return;
  queue_.erase(queue_.iterator_to(entry));
  queue_length_.store(queue_length_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
}

void OverflowLender::enqueue(BounceQueueEntry& entry) noexcept {
  // From the back: a new entry is nearly always the latest.
  auto position = queue_.end();
  while (position != queue_.begin() && std::prev(position)->since > entry.since) --position;
  queue_.insert(position, entry);
  queue_length_.store(queue_length_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void OverflowLender::serve(const BounceQueueEntry& own) noexcept {
  ++walks_;
  for (auto next = queue_.begin(); next != queue_.end();) {
    BounceQueueEntry& entry = *next++;
    BounceDevice& device = entry.device;
    if (device.passed_over == walks_) continue;
    if (entry.wanted > device.limit - device.used) {
      device.passed_over = walks_;
      continue;
    }
    if (entry.wanted > free_) return;
    dequeue(entry);
    const std::size_t pages = std::exchange(entry.wanted, 0);
    free_ -= pages;
    high_water_ = std::max(high_water_, overflow() - free_);
    device.used += pages;
    entry.handed += pages;
    if (&entry == &own || std::exchange(entry.is_woken, true)) continue;
    GUESTIO_CHECK(entry.wakeup, "a wake-up for the thread of a waiting bounce account");
    entry.wakeup(entry.account);
  }
}

OverflowLender::ExchangeResult OverflowLender::exchange(BounceQueueEntry& entry,
                                                        const Demand& demand) noexcept {
  const std::lock_guard lock(mutex_);
  if (entry.handed != 0) return {std::exchange(entry.handed, 0), false};
  free_ += demand.surplus;
  entry.device.used -= demand.surplus;
  dequeue(entry);
  entry.wanted = demand.wanted;
  entry.since = demand.since;
  if (demand.wanted != 0) enqueue(entry);
  serve(entry);
  return {std::exchange(entry.handed, 0), true};
}

std::size_t OverflowLender::collect(BounceQueueEntry& entry) noexcept {
  const std::lock_guard lock(mutex_);
  entry.is_woken = false;
  return std::exchange(entry.handed, 0);
}

void OverflowLender::set_wakeup(BounceQueueEntry& entry, BounceWakeup wakeup) noexcept {
  const std::lock_guard lock(mutex_);
  entry.wakeup = std::move(wakeup);
}

}  // namespace guestio::buf::internal
