// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "guestio/base/units.h"

/// Many tasks on several threads that want more bounce memory than there is.
namespace guestio::bench {

/// Remembers which processors the process may use, for threads that are started once the main
/// thread is pinned to one of them. Called once, before that.
void note_processors() noexcept;

struct Contention {
  std::size_t threads;
  std::size_t tasks;  ///< on each thread
  std::size_t size;   ///< bytes of each buffer
  ByteCount limit;    ///< of each thread, for its tasks
  std::chrono::milliseconds duration;
};

/// What came of it. Shares are relative to what each task has when all have the same.
struct ContentionOutcome {
  double nanoseconds = 0;  ///< of the clock, for each buffer that was taken and dropped
  double least_share = 0;
  double largest_share = 0;
  double waits = 0;                  ///< for each buffer
  double mean_wait_nanoseconds = 0;  ///< of those that had to wait
  double longest_wait_nanoseconds = 0;
  double allocations = 0;  ///< for each buffer
};

/// Each task takes a buffer, keeps it while the others of its thread have a turn, drops it and
/// begins again, for the whole duration.
[[nodiscard]] ContentionOutcome contend(const Contention& contention);

}  // namespace guestio::bench
