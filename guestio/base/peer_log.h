// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include "guestio/base/log.h"

namespace guestio {

/// The rate limits of log lines about the front-ends and drivers of one backend. A noisy peer of
/// one disk suppresses no lines about other disks. Reconnecting or restarting rings gains no extra
/// lines. Threads: any.
struct PeerLog {
  explicit PeerLog(std::string backend_name = "disk") : name(std::move(backend_name)) {}

  const std::string name;                                   ///< of the backend, in each line
  log::RateLimit faults{20, std::chrono::seconds(2)};       ///< protocol violations
  log::RateLimit connections{50, std::chrono::seconds(1)};  ///< connects and disconnects
};

}  // namespace guestio
