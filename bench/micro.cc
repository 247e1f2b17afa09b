// SPDX-License-Identifier: MIT
// The program of `./dev bench micro`: selects rows, runs them, prints the table.
#include <benchmark/benchmark.h>
#include <fmt/core.h>
#include <sched.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "contention.h"
#include "guestio/base/standard_fds.h"
#include "row.h"
#include "table.h"

namespace guestio::bench {

void exit_with(const Error& error) noexcept {
  fmt::print(stderr, "benchmark failed: {}\n", error.to_string());
  std::exit(1);
}

bool Rows::is_selected(std::string_view name) const noexcept {
  if (prefixes_.empty()) return true;
  for (const std::string& prefix : prefixes_) {
    if (name.starts_with(prefix)) return true;
  }
  return false;
}

void Rows::add_timed(const std::string& name, std::size_t bytes, const Function& function) {
  constexpr double kSeconds = 0.01;  // of one repetition
  if (!is_selected(name)) return;
  rows_.push_back({name, bytes});
  benchmark::RegisterBenchmark(name.c_str(), function)
      ->MinTime(kSeconds)
      ->Repetitions(repetitions_)
      ->UseRealTime();
}

void Rows::add_run(const std::string& name, std::size_t bytes, const Function& function) {
  if (!is_selected(name)) return;
  rows_.push_back({name, bytes});
  benchmark::RegisterBenchmark(name.c_str(), function)->Iterations(1)->Repetitions(repetitions_);
}

namespace {

constexpr const char* kUsage = R"(Usage: guestio-bench-micro [OPTION…] [PREFIX…]

Times all rows, or those with a name prefix PREFIX, and prints one line per row:

  name<TAB>bytes<TAB>median_ns<TAB>min<TAB>max

  --details          add allocations per op and the other counters of each row
  --repetitions=N    repetitions of each row, interleaved (15)
  --help             show this help
)";

struct Arguments {
  Details details = Details::kNo;
  int repetitions = 15;
  std::vector<std::string> prefixes;
};

[[noreturn]] void exit_with_usage(std::FILE* to, int status) {
  std::fputs(kUsage, to);
  std::exit(status);
}

Arguments parse(int count, char** words) {
  constexpr std::string_view kRepetitions = "--repetitions=";
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--help") exit_with_usage(stdout, 0);
    if (word == "--details") {
      arguments.details = Details::kYes;
    } else if (word.starts_with(kRepetitions)) {
      const char* const end = words[i] + word.size();
      const auto parsed =
          std::from_chars(words[i] + kRepetitions.size(), end, arguments.repetitions);
      if (parsed.ptr != end || arguments.repetitions < 1) exit_with_usage(stderr, 2);
    } else if (word.starts_with("-")) {
      exit_with_usage(stderr, 2);
    } else {
      arguments.prefixes.emplace_back(word);
    }
  }
  return arguments;
}

/// Pins the thread to its last allowed processor.
void pin() {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu) {
    if (!CPU_ISSET(static_cast<std::size_t>(cpu), &allowed)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu), &one);
    (void)::sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

int run(const Arguments& arguments) {
  Rows rows(arguments.prefixes, arguments.repetitions);
  add_memory_rows(rows);
  add_range_rows(rows);
  add_request_rows(rows);
  add_lock_rows(rows);
  add_bounce_rows(rows);
  add_plan_rows(rows);
  add_fault_rows(rows);
  add_contention_rows(rows);
  add_reference_rows(rows);
  if (rows.all().empty()) {
    fmt::print(stderr, "no row matches\n");
    return 2;
  }
  // Interleaved repetitions: a slow period of the machine affects one repetition of many rows, and
  // no median.
  std::string program = "guestio-bench-micro";
  std::string interleave = "--benchmark_enable_random_interleaving=true";
  char* words[] = {program.data(), interleave.data(), nullptr};
  int count = 2;
  benchmark::Initialize(&count, words);
  Table table(rows, arguments.details);
  benchmark::RunSpecifiedBenchmarks(&table);
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace guestio::bench

int main(int count, char** words) {
  guestio::open_standard_fds();
  const auto arguments = guestio::bench::parse(count, words);
  guestio::bench::save_affinity();
  guestio::bench::pin();
  return guestio::bench::run(arguments);
}
