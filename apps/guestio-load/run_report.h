// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>

#include "apps/guestio-load/arguments.h"
#include "apps/guestio-load/run_job.h"

/// Reports of a run.
namespace guestio::load {

/// The sum over all jobs.
struct RunSummary {
  RunTotals totals;
  std::chrono::nanoseconds measured{0};
  double user_seconds = 0;  ///< CPU time of this process
  double system_seconds = 0;
};

/// A report of several lines.
[[nodiscard]] std::string to_normal(const RunArguments& arguments, const RunSummary& summary);

/// fio's JSON format (one job, as with group_reporting): jobs[0].read.iops,
/// jobs[0].read.clat_ns.percentile["99.000000"], …
[[nodiscard]] std::string to_json(const RunArguments& arguments, const RunSummary& summary);

}  // namespace guestio::load
