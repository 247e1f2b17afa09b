// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "guestio/base/log.h"

namespace guestio::vhost {

/// What lines about the faults of front-ends and drivers are held back by. One for the process: who
/// connects again and again, or restarts its rings, has no more lines than who stays.
inline log::RateLimit& peer_fault_log() noexcept {
  static log::RateLimit limit(20, std::chrono::seconds(2));
  return limit;
}

/// The same for their coming and going.
inline log::RateLimit& peer_visit_log() noexcept {
  static log::RateLimit limit(50, std::chrono::seconds(1));
  return limit;
}

}  // namespace guestio::vhost
