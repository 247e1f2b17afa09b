// SPDX-License-Identifier: MIT
#include "guestio/disk/guard/block_guard.h"

#include "guestio/base/check.h"

namespace guestio::disk {

BlockGuard::~BlockGuard() {
  GUESTIO_CHECK(claims_.empty(), "no claim on a guard that is destroyed");
}

bool BlockGuard::claim(Claim& claim) noexcept {
  const std::lock_guard lock(mutex_);
  claim.conflicts_ = 0;
  if (claim.is_exclusive()) ++exclusive_;
  if (exclusive_ != 0) {
    for (const Claim& earlier : claims_) {
      if (earlier.conflicts_with(claim)) ++claim.conflicts_;
    }
  }
  claims_.push_back(claim);
  return claim.conflicts_ == 0;
}

void BlockGuard::release(Claim& claim) noexcept {
  const std::lock_guard lock(mutex_);
  GUESTIO_CHECK(claim.conflicts_ == 0, "a granted claim");
  auto later = claims_.erase(claims_.iterator_to(claim));
  if (exclusive_ == 0) return;
  if (claim.is_exclusive()) --exclusive_;
  for (; later != claims_.end(); ++later) {
    if (later->conflicts_with(claim) && --later->conflicts_ == 0) later->on_granted();
  }
}

}  // namespace guestio::disk
