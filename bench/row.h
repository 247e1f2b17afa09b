// SPDX-License-Identifier: MIT
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "allocations.h"
#include "guestio/base/error.h"

/// What a row of the table is and how it is timed.
namespace guestio::bench {

/// Ends the program: a row that fails would be quick for the wrong reason.
[[noreturn]] void stop_on(const Error& error) noexcept;

template <typename T>
[[gnu::always_inline]] inline void require(const Result<T>& result) noexcept {
  if (!result) [[unlikely]]
    stop_on(result.error());
}

/// The value, of which the compiler knows nothing.
template <typename T>
[[nodiscard, gnu::always_inline]] inline T hidden(T value) noexcept {
  asm volatile("" : "+r"(value));
  return value;
}

/// A loop of so many laps, with the interface of benchmark::State that rows use.
class Laps {
 public:
  explicit Laps(int count) noexcept : count_(count) {}
  class Iterator {
   public:
    struct [[maybe_unused]] Lap {};
    explicit Iterator(int left) noexcept : left_(left) {}
    Lap operator*() const noexcept { return {}; }
    Iterator& operator++() noexcept {
      --left_;
      return *this;
    }
    bool operator!=(const Iterator& other) const noexcept { return left_ != other.left_; }

   private:
    int left_;
  };
  [[nodiscard]] Iterator begin() const noexcept { return Iterator(count_); }
  [[nodiscard]] Iterator end() const noexcept { return Iterator(0); }

 private:
  int count_;
};

/// Names of the counters that a row leaves for the table.
inline constexpr const char* kAllocationsCounter = "allocations";
/// Nanoseconds an operation, where that is not the time of a lap.
inline constexpr const char* kNanosecondsCounter = "nanoseconds";

/// The rows that are asked for.
class Rows {
 public:
  struct Row {
    std::string name;
    std::size_t bytes;
  };
  using Function = std::function<void(benchmark::State&)>;

  /// Rows whose names begin with one of `prefixes`; all rows when there is none.
  Rows(std::vector<std::string> prefixes, int repetitions) noexcept
      : prefixes_(std::move(prefixes)), repetitions_(repetitions) {}

  /// A row of `op()`, which moves or is about `bytes`.
  template <typename Op>
  void add(const std::string& name, std::size_t bytes, const Op& op) {
    add_loop(name, bytes, [op](auto& laps) {
      // A copy that the compiler knows to be nobody else's.
      const Op own = op;  // NOLINT(performance-unnecessary-copy-initialization)
      for ([[maybe_unused]] auto lap : laps) {
        own();
        benchmark::ClobberMemory();
      }
    });
  }
  /// A row of `loop(laps)`, which does its operation once in each lap: for what needs a frame
  /// round it.
  template <typename Loop>
  void add_loop(const std::string& name, std::size_t bytes, const Loop& loop) {
    add_timed(name, bytes, [loop](benchmark::State& state) {
      constexpr int kLaps = 256;
      Laps warm_up(kLaps);
      loop(warm_up);
      const std::uint64_t before = allocations();
      Laps counted(kLaps);
      loop(counted);
      const std::uint64_t taken = allocations() - before;
      loop(state);
      state.counters[kAllocationsCounter] = static_cast<double>(taken) / kLaps;
    });
  }
  /// A row that times itself and sets the counters.
  void add_run(const std::string& name, std::size_t bytes, const Function& function);

  [[nodiscard]] const std::vector<Row>& all() const noexcept { return rows_; }

 private:
  void add_timed(const std::string& name, std::size_t bytes, const Function& function);
  [[nodiscard]] bool is_wanted(std::string_view name) const noexcept;

  std::vector<std::string> prefixes_;
  int repetitions_;
  std::vector<Row> rows_;
};

// What the rows_*.cc add.
void add_memory_rows(Rows& rows);
void add_range_rows(Rows& rows);
void add_request_rows(Rows& rows);
void add_lock_rows(Rows& rows);
void add_bounce_rows(Rows& rows);
void add_plan_rows(Rows& rows);
void add_fault_rows(Rows& rows);
void add_contention_rows(Rows& rows);
void add_reference_rows(Rows& rows);

}  // namespace guestio::bench
