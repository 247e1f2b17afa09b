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
  kMisaligned,       ///< the host address breaks the file's memory alignment
  kSegmentBoundary,  ///< a segment ends inside the block
  kPadding,          ///< the request covers only a part of the block
  kPolicy,           ///< all blocks are bounced (TransferPlan::Policy::kBounceAll)
  kManyPieces,       ///< could go direct, but one copy costs less than that many pieces
  kSlowCopy,         ///< could go direct, but the kernel copies slowly to that address
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

/// The bytes of a channel that were copied, and why. Written by one thread, read by any.
struct BounceCounters {
  Counter plans;  ///< vectored calls
  Counter direct_bytes;
  BouncedBytes bounced;  ///< padding included
};

/// Counts of a bounce account since its creation. Written by its thread, read by any. Each count is
/// exact; together they are no snapshot of one moment.
struct BounceStatistics {
  std::uint64_t grants = 0;
  std::uint64_t waits = 0;      ///< requests with a wait
  std::uint64_t cancelled = 0;  ///< of these, those without a buffer in the end
  std::chrono::nanoseconds wait_time{};
  std::chrono::nanoseconds longest_wait{};
  ByteCount high_water;  ///< maximum held at a time
};

}  // namespace guestio::buf
