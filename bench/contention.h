// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "guestio/base/units.h"

/// Contention of many tasks on several threads for bounce memory.
namespace guestio::bench {

/// Saves the affinity of the process, for threads started after the main thread is pinned. Called
/// once, before pinning.
void save_affinity() noexcept;

struct Contention {
  std::size_t threads;
  std::size_t tasks;  ///< per thread
  std::size_t size;   ///< bytes per buffer
  ByteCount limit;    ///< per thread
  std::chrono::milliseconds duration;
};

/// Shares are relative to an equal share for all tasks.
struct ContentionOutcome {
  double nanoseconds = 0;  ///< ns/op of the wall clock; an op acquires and releases a buffer
  double min_share = 0;
  double max_share = 0;
  double waits = 0;                  ///< per op
  double mean_wait_nanoseconds = 0;  ///< of the ops with a wait
  double max_wait_nanoseconds = 0;
  double allocations = 0;  ///< per op
};

/// Each task acquires a buffer, yields to the other tasks of its thread, releases the buffer and
/// repeats, for the duration.
[[nodiscard]] ContentionOutcome run_contention(const Contention& contention);

}  // namespace guestio::bench
