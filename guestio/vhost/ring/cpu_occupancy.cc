// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/cpu_occupancy.h"

#include <sched.h>

#include <array>
#include <atomic>
#include <cstddef>

namespace guestio::vhost {

namespace {

constexpr std::size_t kProcessors = 256;  // further ones share the counters of the first ones

/// On a cache line of its own: the processors do not contend.
struct alignas(64) AwakeThreads {
  std::atomic<int> count = 0;
};

// Relaxed throughout: the counters guard nothing.
constinit std::array<AwakeThreads, kProcessors> awake_threads;

std::atomic<int>& awake_on(int processor) noexcept {
  return awake_threads[static_cast<std::size_t>(processor) % kProcessors].count;
}

}  // namespace

void CpuOccupancy::enter() noexcept {
  if (processor_ != kNowhere) return;
  const int processor = ::sched_getcpu();
  processor_ = processor < 0 ? 0 : processor;
  awake_on(processor_).fetch_add(1, std::memory_order_relaxed);
}

void CpuOccupancy::leave() noexcept {
  if (processor_ == kNowhere) return;
  awake_on(processor_).fetch_sub(1, std::memory_order_relaxed);
  processor_ = kNowhere;
}

bool CpuOccupancy::is_alone() const noexcept {
  return awake_on(processor_).load(std::memory_order_relaxed) == 1;
}

}  // namespace guestio::vhost
