// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "guestio/base/counter.h"

/// What a queue counts of its guest's requests. Written by the queue's thread, read by any.
namespace guestio::blk {

/// What a guest asks for, as far as it is counted apart.
enum class RequestKind : std::uint8_t {
  kRead,
  kWrite,
  kFlush,
  kDiscard,
  kWriteZeroes,
  kSecureErase,
  kOther,  ///< GET_ID, and what is unknown or makes no sense
};
inline constexpr std::size_t kRequestKinds = 7;

/// The name for people and programs: "write_zeroes".
[[nodiscard]] const char* to_text(RequestKind kind) noexcept;

/// How long requests took, in steps of a quarter of a power of two (19 % at most).
class LatencyHistogram {
 public:
  static constexpr std::size_t kStepsPerDoubling = 4;
  static constexpr std::size_t kSteps = 40 * kStepsPerDoubling;  // up to 2^40 ns: 18 minutes

  void note(std::chrono::nanoseconds taken) noexcept;
  void add(const LatencyHistogram& other) noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept;
  /// What at least `share` (0 to 1) of them were done in; 0 when there are none.
  [[nodiscard]] std::chrono::nanoseconds percentile(double share) const noexcept;

 private:
  std::array<Counter, kSteps> steps_;
};

/// Counts since the queue was made.
struct QueueStatistics {
  struct Kind {
    Counter requests;  ///< answered, failures included
    Counter bytes;     ///< of those that succeeded: of data, or of the disk's range
    Counter errors;    ///< answered with another status than OK
  };
  /// Every so-manyth request is timed: two looks at the clock cost as much as some requests.
  static constexpr std::uint32_t kTimedEvery = 64;

  std::array<Kind, kRequestKinds> kinds;
  LatencyHistogram latency;  ///< from taken to answered, of one request in kTimedEvery

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
