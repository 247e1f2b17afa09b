// SPDX-License-Identifier: MIT
#include "guestio/blk/failure_policy.h"

#include <algorithm>
#include <cerrno>

namespace guestio::blk {

namespace {

bool is_out_of_space(const Error& error) noexcept {
  return error.kind == ErrorKind::kHost &&
         (error.host_errno == ENOSPC || error.host_errno == EDQUOT);
}

}  // namespace

bool is_disk_failure(const Error& error) noexcept {
  switch (error.kind) {
    case ErrorKind::kHost:
    case ErrorKind::kShortTransfer:
    case ErrorKind::kClosed:
    case ErrorKind::kBusy: return true;
    default: return false;
  }
}

bool FailurePolicy::should_retry(const Error& error, std::uint32_t attempts) const noexcept {
  if (!is_disk_failure(error)) return false;
  switch (on_error) {
    case OnError::kReport: return false;
    case OnError::kRetry: return attempts <= kMaxRetries;
    case OnError::kHold: return true;
    case OnError::kEnospc: return is_out_of_space(error);
  }
  return false;
}

std::chrono::milliseconds FailurePolicy::retry_delay(std::uint32_t attempts) noexcept {
  constexpr std::uint32_t kMaxDoublings = 7;  // 10 ms << 7 exceeds kLongestPause
  const std::uint32_t doublings = std::min(attempts > 0 ? attempts - 1 : 0, kMaxDoublings);
  return std::min(kFirstPause * (1U << doublings), kLongestPause);
}

}  // namespace guestio::blk
