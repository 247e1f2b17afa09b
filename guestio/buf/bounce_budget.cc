// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_budget.h"

#include <algorithm>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::buf {

BounceBudget::~BounceBudget() {
  GUESTIO_CHECK(free_ == overflow_ && line_.empty(),
                "all bounce memory back before its budget goes");
}

ByteCount BounceBudget::overflow() const noexcept {
  return ByteCount(overflow_.load(std::memory_order_relaxed) * kPageSize);
}

ByteCount BounceBudget::free_overflow() const noexcept {
  const std::lock_guard lock(mutex_);
  return ByteCount(free_ * kPageSize);
}

ByteCount BounceBudget::overflow_high_water() const noexcept {
  const std::lock_guard lock(mutex_);
  return ByteCount(high_water_ * kPageSize);
}

Result<> BounceBudget::allot(std::size_t quota, std::size_t overflow) {
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

void BounceBudget::leave(Place& place) noexcept {
  if (!place.is_linked()) return;
  line_.erase(line_.iterator_to(place));
  in_line_.store(in_line_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
}

void BounceBudget::join(Place& place) noexcept {
  // From the back: who joins has nearly always come last.
  auto behind = line_.end();
  while (behind != line_.begin() && std::prev(behind)->since > place.since) --behind;
  line_.insert(behind, place);
  in_line_.store(in_line_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void BounceBudget::serve(const Place& own) noexcept {
  ++walks_;
  for (auto next = line_.begin(); next != line_.end();) {
    Place& place = *next++;
    Device& device = place.device;
    if (device.passed_over == walks_) continue;
    if (place.wanted > device.limit - device.used) {
      device.passed_over = walks_;
      continue;
    }
    if (place.wanted > free_) return;
    leave(place);
    const std::size_t pages = std::exchange(place.wanted, 0);
    free_ -= pages;
    high_water_ = std::max(high_water_, overflow_.load(std::memory_order_relaxed) - free_);
    device.used += pages;
    place.handed += pages;
    if (&place == &own || std::exchange(place.is_called, true)) continue;
    GUESTIO_CHECK(place.call, "a way to call the thread that a bounce account waits on");
    place.call(place.account);
  }
}

BounceBudget::Answer BounceBudget::exchange(Place& place, const Demand& demand) noexcept {
  const std::lock_guard lock(mutex_);
  if (place.handed != 0) return {std::exchange(place.handed, 0), false};
  free_ += demand.surplus;
  place.device.used -= demand.surplus;
  leave(place);
  place.wanted = demand.wanted;
  place.since = demand.since;
  if (demand.wanted != 0) join(place);
  serve(place);
  return {std::exchange(place.handed, 0), true};
}

std::size_t BounceBudget::collect(Place& place) noexcept {
  const std::lock_guard lock(mutex_);
  place.is_called = false;
  return std::exchange(place.handed, 0);
}

void BounceBudget::set_call(Place& place, BounceWakeup call) noexcept {
  const std::lock_guard lock(mutex_);
  place.call = std::move(call);
}

}  // namespace guestio::buf
