// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

namespace guestio::disk {

/// Whether a file is better read and written by a call of the thread itself than through the ring.
///
/// A file without non-blocking I/O (tmpfs, some others) makes the ring hand each request to a
/// worker thread, which costs more than the copy when the file is memory. Whether it is one is
/// found out by measuring, first when it is opened and then by timing a call now and then: a file
/// that turns slow (its pages were swapped out) gets the ring, and another trial later.
///
/// Threads: one; a copy each.
class DirectCalls {
 public:
  using Clock = std::chrono::steady_clock;

  DirectCalls() noexcept = default;
  /// `pays`: what was found when the file was opened.
  explicit DirectCalls(bool pays) noexcept : may_pay_(pays) {}

  /// Whether to make a call for `bytes` now. Not for many: the guest chooses how many, and whoever
  /// shares the thread waits for the call.
  [[nodiscard]] bool wanted(std::uint64_t bytes) noexcept {
    if (!may_pay_ || bytes > kMaxBytes) return false;
    if (requests_to_skip_ == 0) return true;
    --requests_to_skip_;
    return false;
  }

  /// Calls that are to be timed: one in sixteen.
  [[nodiscard]] bool wants_time() noexcept { return (++calls_ & 15U) == 0; }
  void note(Clock::duration took, std::uint64_t bytes) noexcept {
    requests_to_skip_ = took > 4 * most(bytes) ? kSkipped : 0;
  }

  /// What a call on memory takes at most: some microseconds and the copy at 2 GB/s.
  [[nodiscard]] static std::chrono::nanoseconds most(std::uint64_t bytes) noexcept {
    return std::chrono::microseconds(5) + std::chrono::nanoseconds(bytes / 2);
  }

 private:
  static constexpr std::uint32_t kSkipped = 4096;
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 20;

  bool may_pay_ = false;
  std::uint32_t calls_ = 0;
  std::uint32_t requests_to_skip_ = 0;
};

/// Asks an open file. Only a file that refuses non-blocking reads is timed, with reads.
/// `block`: what its reads must be a multiple of and aligned to.
[[nodiscard]] bool are_direct_calls_faster(int fd, std::uint64_t size,
                                           std::uint64_t block) noexcept;

}  // namespace guestio::disk
