// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include "guestio/base/log.h"

namespace guestio {

/// What lines about one backend's front-ends and their drivers are held back by: who makes noise at
/// one disk keeps no line about another from the log, and who connects again and again, or restarts
/// its rings, has no more lines than who stays.
/// Threads: any.
struct PeerLog {
  explicit PeerLog(std::string backend_name = "disk") : name(std::move(backend_name)) {}

  const std::string name;                                   ///< the backend's, for the lines
  log::RateLimit faults{20, std::chrono::seconds(2)};       ///< against rules
  log::RateLimit connections{50, std::chrono::seconds(1)};  ///< their coming and going
};

}  // namespace guestio
