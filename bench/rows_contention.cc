// SPDX-License-Identifier: MIT
// Row contend: 4 threads of 16 tasks each, with bounce memory for half of them. ns/op of the wall
// clock over all threads. Uses all processors, unlike the other rows.
#include "contention.h"
#include "row.h"

namespace guestio::bench {

void add_contention_rows(Rows& rows) {
  constexpr std::size_t kSize = 4096;
  rows.add_run("contend/4x16", kSize, [](benchmark::State& state) {
    ContentionOutcome outcome;
    for ([[maybe_unused]] auto lap : state) {
      outcome = run_contention({.threads = 4,
                                .tasks = 16,
                                .size = kSize,
                                .limit = ByteCount(8 * kSize),
                                .duration = std::chrono::milliseconds(200)});
    }
    state.counters[kNanosecondsCounter] = outcome.nanoseconds;
    state.counters[kAllocationsCounter] = outcome.allocations;
    state.counters["least_share"] = outcome.min_share;
    state.counters["largest_share"] = outcome.max_share;
    state.counters["waits"] = outcome.waits;
    state.counters["mean_wait_ns"] = outcome.mean_wait_nanoseconds;
    state.counters["longest_wait_ns"] = outcome.max_wait_nanoseconds;
  });
}

}  // namespace guestio::bench
