// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "guestio/base/counter.h"
#include "guestio/base/units.h"

namespace guestio::buf {

/// Why a block goes through bounce memory.
enum class BounceReason : std::uint8_t {
  kMisaligned,       ///< the guest's bytes lie at an address that the file does not take
  kSegmentBoundary,  ///< a segment ends inside the block
  kPadding,          ///< the request covers only a part of the block
  kPolicy,           ///< everything does (TransferPlan::Policy::kBounceAll)
  kManyPieces,       ///< it could go direct, but one copy costs less than so many pieces
  kSlowCopy,         ///< it could go direct, but to where it lies the kernel copies slowly
};
inline constexpr std::size_t kBounceReasons = 6;

/// Bytes by reason.
class BouncedBytes {
 public:
  [[nodiscard]] std::uint64_t operator[](BounceReason reason) const noexcept {
    return bytes_[static_cast<std::size_t>(reason)];
  }
  void add(BounceReason reason, std::uint64_t bytes) noexcept {
    bytes_[static_cast<std::size_t>(reason)] += bytes;
  }
  void add(const BouncedBytes& other) noexcept {
    for (std::size_t i = 0; i < kBounceReasons; ++i) bytes_[i] += other.bytes_[i];
  }
  [[nodiscard]] std::uint64_t total() const noexcept {
    std::uint64_t sum = 0;
    for (const Counter& bytes : bytes_) sum += bytes;
    return sum;
  }

 private:
  std::array<Counter, kBounceReasons> bytes_;
};

/// How much of a channel's traffic was copied, and why. Written by one thread, read by any.
struct BounceCounters {
  Counter plans;  ///< vectored calls
  Counter direct_bytes;
  BouncedBytes bounced;  ///< padding included
};

/// Counts since the account was made. Written by its thread, readable from any: each is exact, all
/// together need not be of one moment.
struct BounceStatistics {
  std::uint64_t grants = 0;
  std::uint64_t waits = 0;      ///< requests that had to wait
  std::uint64_t cancelled = 0;  ///< of these, those that ended without a buffer
  std::chrono::nanoseconds wait_time{};
  std::chrono::nanoseconds longest_wait{};
  ByteCount high_water;  ///< the most that was held at a time
};

}  // namespace guestio::buf
