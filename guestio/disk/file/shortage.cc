// SPDX-License-Identifier: MIT
#include "guestio/disk/file/shortage.h"

#include <algorithm>

namespace guestio::disk {

bool ShortageRetry::count_shortage(Clock::time_point now) noexcept {
  ++shortages_.met;
  if (++attempts_ >= kRingAttempts + kCalls) return false;
  if (attempts_ == kRingAttempts) {
    shortages_.lasts_until = now + kLasting;
  } else if (attempts_ < kRingAttempts && now < shortages_.lasts_until) {
    attempts_ = kRingAttempts;
  }
  // No pause before the first call: it needs other resources than the ring.
  constexpr auto kFirstPause = std::chrono::milliseconds(1);
  pause_ = attempts_ == kRingAttempts
               ? std::chrono::milliseconds(0)
               : std::min(kLongestPause, kFirstPause * (1U << std::min(attempts_ - 1, 8U)));
  return true;
}

}  // namespace guestio::disk
