// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/task/timer.h"

namespace guestio::blk {

/// What becomes of a request that the disk failed.
enum class OnError : std::uint8_t {
  kReport,  ///< the guest is told at once
  kRetry,   ///< the disk is asked again for some seconds, then the guest is told
  kHold,    ///< the request waits until the disk takes it, or somebody gives it up
  kEnospc,  ///< as kHold for want of space, as kReport for anything else
};

struct FailurePolicy {
  OnError on_error = OnError::kReport;
  /// What waits between two attempts; needed for everything but kReport.
  std::unique_ptr<task::Timer> timer = {};

  static constexpr std::uint32_t kMaxRetries = 10;  ///< of kRetry: about four seconds
  static constexpr std::chrono::milliseconds kFirstPause{10};
  static constexpr std::chrono::milliseconds kLongestPause{1000};

  /// Whether a request that failed with `error` after `attempts` attempts is worth another.
  [[nodiscard]] bool should_retry(const Error& error, std::uint32_t attempts) const noexcept;
  /// How long to wait after so many attempts: doubles up to the longest.
  [[nodiscard]] static std::chrono::milliseconds retry_delay(std::uint32_t attempts) noexcept;
};

/// Whether the disk is to blame, so that it may be another time: not the guest, its memory, or
/// what the disk can never do. What a failed flush lost (kDataLost) no second attempt brings back.
[[nodiscard]] bool is_disk_failure(const Error& error) noexcept;

}  // namespace guestio::blk
