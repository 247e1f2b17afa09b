// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

#include "guestio/base/unique_fd.h"
#include "guestio/vhost/wire/messages.h"

namespace guestio::vhost {

/// Snapshot of an InbandRing: eventfds in place of messages, each optional.
struct InbandState {
  UniqueFd kick = {};
  UniqueFd call = {};
  UniqueFd error = {};
};

/// Snapshot of a RingSetup: the settings of the front-end, and where the ring resumes.
struct RingState {
  std::uint32_t size = 0;
  std::uint32_t base = 0;
  std::optional<VringAddress> addresses = std::nullopt;
  bool has_kick = false;  ///< a kick message arrived since the ring last stopped
  bool is_enabled = false;
  bool is_running = false;
  std::uint64_t features = 0;  ///< of a running ring
  // Each is optional.
  UniqueFd kick = {};
  UniqueFd call = {};
  UniqueFd error = {};
  InbandState inband = {};  ///< the session's
};

}  // namespace guestio::vhost
