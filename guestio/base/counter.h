// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>

namespace guestio {

/// A number that one thread counts with and any thread reads. Counting costs what it costs for a
/// plain number: a load and a store, no locked instruction.
///
/// Relaxed throughout: each number is exact, several read one after the other need not be of one
/// moment. A copy is a snapshot.
class Counter {
 public:
  constexpr Counter() noexcept = default;
  // Implicit both ways: a counter is used as the number it is.
  constexpr Counter(std::uint64_t value) noexcept : value_(value) {}
  Counter(const Counter& other) noexcept : value_(other.value()) {}
  Counter& operator=(const Counter& other) noexcept {
    set(other.value());
    return *this;
  }
  ~Counter() = default;

  [[nodiscard]] std::uint64_t value() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }
  operator std::uint64_t() const noexcept { return value(); }

  // The counting thread's.
  void set(std::uint64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  Counter& operator+=(std::uint64_t more) noexcept {
    set(value() + more);
    return *this;
  }
  Counter& operator++() noexcept { return *this += 1; }

 private:
  std::atomic<std::uint64_t> value_ = 0;
};

}  // namespace guestio
