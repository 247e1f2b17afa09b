// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "guestio/base/units.h"

/// Decoding of libFuzzer's input bytes.
namespace guestio::fuzz {

/// Input bytes, consumed from the front as operations and their operands. Zeros follow the end, so
/// no operand is ever missing.
class Program {
 public:
  Program(const std::uint8_t* data, std::size_t size) noexcept : rest_(data, size) {}

  [[nodiscard]] bool is_over() const noexcept { return rest_.empty(); }

  template <typename T>
    requires std::is_unsigned_v<T>
  [[nodiscard]] T take() noexcept {
    T value = 0;
    const std::size_t count = std::min(sizeof(T), rest_.size());
    if (count != 0) std::memcpy(&value, rest_.data(), count);
    rest_ = rest_.subspan(count);
    return value;
  }
  [[nodiscard]] bool flag() noexcept { return (take<std::uint8_t>() & 1) != 0; }
  /// One of [0, count). Requires: 0 < count <= 65536.
  [[nodiscard]] std::size_t index(std::size_t count) noexcept {
    return count <= 256 ? take<std::uint8_t>() % count : take<std::uint16_t>() % count;
  }
  /// Up to `count` raw bytes.
  [[nodiscard]] std::span<const std::uint8_t> bytes(std::size_t count) noexcept {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  /// A number around `length`: mostly inside, often at an edge or a page boundary, sometimes far
  /// outside.
  [[nodiscard]] std::uint64_t around(std::uint64_t length) noexcept {
    const auto operand = take<std::uint8_t>();
    const std::uint64_t small = operand >> 3;
    switch (operand & 7) {
      case 0: return small;
      case 1: return length - small;
      case 2: return length + small;
      case 3: return small * kPageSize + take<std::uint8_t>() - 128;
      case 4: return take<std::uint64_t>();
      default: return length == 0 ? 0 : take<std::uint16_t>() % length;
    }
  }

 private:
  std::span<const std::uint8_t> rest_;
};

}  // namespace guestio::fuzz
