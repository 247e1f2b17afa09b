// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

#include "row.h"

/// The printed table.
namespace guestio::bench {

enum class Details : bool { kNo, kYes };

/// Collects the repetitions of all rows and prints a line per row, in row order:
///
///     name<TAB>bytes<TAB>median_ns<TAB>min<TAB>max
///
/// With details, allocations per op and the other counters of the row follow.
class Table final : public benchmark::BenchmarkReporter {
 public:
  Table(const Rows& rows, Details details) noexcept : rows_(rows), details_(details) {}

  bool ReportContext(const Context& context) override;
  void ReportRuns(const std::vector<Run>& runs) override;
  void Finalize() override;

 private:
  struct Results {
    std::vector<double> nanoseconds;
    std::map<std::string, std::vector<double>> counters;
  };

  void print(const Rows::Row& row, Results& results) const;

  const Rows& rows_;
  const Details details_;
  std::map<std::string, Results> results_;
};

}  // namespace guestio::bench
