// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>

#include "apps/guestio-load/arguments.h"
#include "apps/guestio-load/run_job.h"

/// How the outcome of a run is printed.
namespace guestio::load {

/// All jobs of a run together.
struct RunSummary {
  RunTotals totals;
  std::chrono::nanoseconds measured{0};
  double user_seconds = 0;  ///< processor time of this program
  double system_seconds = 0;
};

/// For people, several lines.
[[nodiscard]] std::string to_normal(const RunArguments& arguments, const RunSummary& summary);

/// As fio names things (one job, as with its group_reporting): jobs[0].read.iops,
/// jobs[0].read.clat_ns.percentile["99.000000"], …
[[nodiscard]] std::string to_json(const RunArguments& arguments, const RunSummary& summary);

}  // namespace guestio::load
