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

/// Rows of the table and their timing.
namespace guestio::bench {

/// Exits: a failing row would show a wrong, short time.
[[noreturn]] void exit_with(const Error& error) noexcept;

template <typename T>
[[gnu::always_inline]] inline void require(const Result<T>& result) noexcept {
  if (!result) [[unlikely]]
    exit_with(result.error());
}

/// Returns the value, opaque to the optimizer.
template <typename T>
[[nodiscard, gnu::always_inline]] inline T hidden(T value) noexcept {
  asm volatile("" : "+r"(value));
  return value;
}

/// A loop of `count` iterations with the interface of benchmark::State.
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

/// Names of the counters of a row.
inline constexpr const char* kAllocationsCounter = "allocations";
/// ns/op, if different from the time of an iteration.
inline constexpr const char* kNanosecondsCounter = "nanoseconds";

/// The selected rows.
class Rows {
 public:
  struct Row {
    std::string name;
    std::size_t bytes;
  };
  using Function = std::function<void(benchmark::State&)>;

  /// Selects rows by name prefix; all rows if `prefixes` is empty.
  Rows(std::vector<std::string> prefixes, int repetitions) noexcept
      : prefixes_(std::move(prefixes)), repetitions_(repetitions) {}

  /// A row of `op()` on `bytes`.
  template <typename Op>
  void add(const std::string& name, std::size_t bytes, const Op& op) {
    add_loop(name, bytes, [op](auto& laps) {
      // A local copy, which the optimizer knows to be unaliased.
      const Op own = op;  // NOLINT(performance-unnecessary-copy-initialization)
      for ([[maybe_unused]] auto lap : laps) {
        own();
        benchmark::ClobberMemory();
      }
    });
  }
  /// A row of `loop(laps)`, one operation per iteration: for operations with set-up around the
  /// loop.
  template <typename Loop>
  void add_loop(const std::string& name, std::size_t bytes, const Loop& loop) {
    add_timed(name, bytes, [loop](benchmark::State& state) {
      constexpr int kLaps = 256;
      Laps warm_up(kLaps);
      loop(warm_up);
      const std::uint64_t before = allocations();
      Laps counted(kLaps);
      loop(counted);
      const std::uint64_t allocated = allocations() - before;
      loop(state);
      state.counters[kAllocationsCounter] = static_cast<double>(allocated) / kLaps;
    });
  }
  /// A row with its own timing and counters.
  void add_run(const std::string& name, std::size_t bytes, const Function& function);

  [[nodiscard]] const std::vector<Row>& all() const noexcept { return rows_; }

 private:
  void add_timed(const std::string& name, std::size_t bytes, const Function& function);
  [[nodiscard]] bool is_selected(std::string_view name) const noexcept;

  std::vector<std::string> prefixes_;
  int repetitions_;
  std::vector<Row> rows_;
};

// Defined in rows_*.cc.
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
