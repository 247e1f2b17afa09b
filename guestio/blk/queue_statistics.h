// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "guestio/base/counter.h"

/// Counts of a guest's requests. Written by the queue's thread, read by any.
namespace guestio::blk {

/// Kinds of requests with counts of their own.
enum class RequestKind : std::uint8_t {
  kRead,
  kWrite,
  kFlush,
  kDiscard,
  kWriteZeroes,
  kSecureErase,
  kOther,  ///< GET_ID, GET_LIFETIME, unknown and malformed requests
};
inline constexpr std::size_t kRequestKinds = 7;

/// The name in statistics: "write_zeroes".
[[nodiscard]] const char* to_text(RequestKind kind) noexcept;

/// Histogram of latencies, in steps of a quarter of a power of two (19 % at most).
class LatencyHistogram {
 public:
  static constexpr std::size_t kStepsPerDoubling = 4;
  static constexpr std::size_t kSteps = 40 * kStepsPerDoubling;  // up to 2^40 ns: 18 minutes

  void record(std::chrono::nanoseconds latency) noexcept;
  void add(const LatencyHistogram& other) noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept;
  /// The latency that at least `share` (0 to 1) of the requests did not exceed; 0 without any.
  [[nodiscard]] std::chrono::nanoseconds percentile(double share) const noexcept;

 private:
  std::array<Counter, kSteps> steps_;
};

/// Counts since the start of the queue.
struct QueueStatistics {
  struct Kind {
    Counter requests;  ///< completed, failures included
    Counter bytes;     ///< of successful requests: of data, or of the range
    Counter errors;    ///< completed with another status than OK
  };
  /// One in so many requests is timed: two clock reads cost as much as some requests.
  static constexpr std::uint32_t kTimedEvery = 64;

  std::array<Kind, kRequestKinds> kinds;
  LatencyHistogram latency;  ///< from pop to completion, of one request in kTimedEvery

  [[nodiscard]] Kind& of(RequestKind kind) noexcept {
    return kinds[static_cast<std::size_t>(kind)];
  }
  [[nodiscard]] const Kind& of(RequestKind kind) const noexcept {
    return kinds[static_cast<std::size_t>(kind)];
  }
  /// Requests of all kinds.
  [[nodiscard]] std::uint64_t requests() const noexcept;
  void add(const QueueStatistics& other) noexcept;
};

}  // namespace guestio::blk
