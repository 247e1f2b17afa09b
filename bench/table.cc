// SPDX-License-Identifier: MIT
#include "table.h"

#include <fmt/core.h>

#include <algorithm>

namespace guestio::bench {

namespace {

constexpr double kNanosecondsPerSecond = 1e9;

/// Sorts `values`.
double median_of(std::vector<double>& values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double seconds_in(benchmark::TimeUnit unit) { return 1 / benchmark::GetTimeUnitMultiplier(unit); }

}  // namespace

bool Table::ReportContext(const Context&) { return true; }

void Table::ReportRuns(const std::vector<Run>& runs) {
  for (const Run& run : runs) {
    if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
    Results& results = results_[run.run_name.function_name];
    double nanoseconds =
        run.GetAdjustedRealTime() * seconds_in(run.time_unit) * kNanosecondsPerSecond;
    for (const auto& [name, counter] : run.counters) {
      if (name == kNanosecondsCounter) {
        nanoseconds = counter.value;
      } else {
        results.counters[name].push_back(counter.value);
      }
    }
    results.nanoseconds.push_back(nanoseconds);
  }
}

void Table::print(const Rows::Row& row, Results& results) const {
  const double median = median_of(results.nanoseconds);
  fmt::print("{}\t{}\t{:.2f}\t{:.2f}\t{:.2f}", row.name, row.bytes, median,
             results.nanoseconds.front(), results.nanoseconds.back());
  if (details_ == Details::kYes) {
    fmt::print("\t{:.4g}", median_of(results.counters[kAllocationsCounter]));
    for (auto& [name, values] : results.counters) {
      if (name != kAllocationsCounter) fmt::print("\t{}={:.4g}", name, median_of(values));
    }
  }
  fmt::print("\n");
}

void Table::Finalize() {
  for (const Rows::Row& row : rows_.all()) {
    const auto found = results_.find(row.name);
    if (found != results_.end()) print(row, found->second);
  }
}

}  // namespace guestio::bench
