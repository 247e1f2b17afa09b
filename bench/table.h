// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <vector>

#include "row.h"

/// What is printed.
namespace guestio::bench {

enum class Details : bool { kNo, kYes };

/// Collects the repetitions of every row and prints a line for each, in the order of the rows:
///
///     name<TAB>bytes<TAB>median_ns<TAB>min<TAB>max
///
/// With details, allocations per operation follow, and then what else a row has counted.
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
