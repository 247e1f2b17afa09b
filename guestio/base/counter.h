// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>

namespace guestio {

/// A statistics counter with one writing thread and any number of readers. An update is a load and
/// a store, without a locked instruction.
///
/// All accesses are relaxed: each value is exact, several values together are no snapshot of one
/// moment. A copy is a snapshot of one counter.
class Counter {
 public:
  constexpr Counter() noexcept = default;
  // Implicit in both directions: a counter is used as its number.
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

  // Writing thread only.
  void set(std::uint64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  Counter& operator+=(std::uint64_t more) noexcept {
    set(value() + more);
    return *this;
  }
  Counter& operator++() noexcept { return *this += 1; }
  /// For a high-water mark.
  void raise_to(std::uint64_t value) noexcept {
    if (value > this->value()) set(value);
  }

 private:
  std::atomic<std::uint64_t> value_ = 0;
};

}  // namespace guestio
