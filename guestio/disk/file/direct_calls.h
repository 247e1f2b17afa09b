// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

namespace guestio::disk {

/// Decides between a system call of the thread itself and the ring.
///
/// A file without non-blocking I/O (tmpfs, for example) makes the ring pass each request to a
/// worker thread. For a file in memory that costs more than the copy. Measurements find such files:
/// when the file is opened, and then by timing one call in sixteen. A file that turned slow (its
/// pages were swapped out) gets the ring, and another trial later.
///
/// Threads: one; a copy each.
class DirectCalls {
 public:
  using Clock = std::chrono::steady_clock;

  DirectCalls() noexcept = default;
  /// `are_faster`: the result of are_direct_calls_faster().
  explicit DirectCalls(bool are_faster) noexcept : may_call_(are_faster) {}

  /// Whether to move `bytes` by a call now. Not for large requests: the guest chooses their size,
  /// and the thread's other disks wait for the call.
  [[nodiscard]] bool should_call(std::uint64_t bytes) noexcept {
    if (!may_call_ || bytes > kMaxBytes) return false;
    if (requests_to_skip_ == 0) return true;
    --requests_to_skip_;
    return false;
  }

  /// True for one call in sixteen.
  [[nodiscard]] bool should_time() noexcept { return (++calls_ & 15U) == 0; }
  void record(Clock::duration took, std::uint64_t bytes) noexcept {
    requests_to_skip_ = took > 4 * max_duration(bytes) ? kSkipped : 0;
  }

  /// The longest call on memory: 5 µs, and the copy at 2 GB/s.
  [[nodiscard]] static std::chrono::nanoseconds max_duration(std::uint64_t bytes) noexcept {
    return std::chrono::microseconds(5) + std::chrono::nanoseconds(bytes / 2);
  }

 private:
  static constexpr std::uint32_t kSkipped = 4096;
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 20;

  bool may_call_ = false;
  std::uint32_t calls_ = 0;
  std::uint32_t requests_to_skip_ = 0;
};

/// Probes an open file. Times reads, but only of a file without non-blocking reads.
/// `block`: alignment of its reads.
[[nodiscard]] bool are_direct_calls_faster(int fd, std::uint64_t size,
                                           std::uint64_t block) noexcept;

}  // namespace guestio::disk
