// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/task/timer.h"

namespace guestio::blk {

/// Handling of requests that the disk failed.
enum class OnError : std::uint8_t {
  kReport,  ///< completes with an error at once
  kRetry,   ///< is retried kMaxRetries times, then completes with an error
  kHold,    ///< is held until the disk serves it or the operator fails it
  kEnospc,  ///< kHold when the storage is full, kReport otherwise
};

struct FailurePolicy {
  OnError on_error = OnError::kReport;
  /// Pauses between attempts; required except with kReport.
  std::unique_ptr<task::Timer> timer = {};

  static constexpr std::uint32_t kMaxRetries = 10;  ///< of kRetry: about 4 s
  static constexpr std::chrono::milliseconds kFirstPause{10};
  static constexpr std::chrono::milliseconds kLongestPause{1000};

  /// Whether to retry a request that failed with `error` after `attempts` attempts.
  [[nodiscard]] bool should_retry(const Error& error, std::uint32_t attempts) const noexcept;
  /// Pause before the next attempt: doubles from kFirstPause to kLongestPause.
  [[nodiscard]] static std::chrono::milliseconds retry_delay(std::uint32_t attempts) noexcept;
};

/// Whether the disk caused `error`, so that a retry may succeed. False for errors of the guest or
/// its memory, for unsupported requests, and for data lost by a failed flush (kDataLost).
[[nodiscard]] bool is_disk_failure(const Error& error) noexcept;

}  // namespace guestio::blk
