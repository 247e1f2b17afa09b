// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/vhost/session/back_channel.h"
#include "guestio/vhost/session/memory_table.h"
#include "guestio/vhost/session/ring_state.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/partial_message.h"

namespace guestio::vhost {

/// Snapshot of a session: everything that another process needs to resume it. Owns all its
/// descriptors.
struct SessionState {
  struct Inflight {
    InflightDescription description;
    virtio::RingKind kind;
    UniqueFd file;
  };
  struct Log {
    LogDescription description;
    UniqueFd file;
  };

  UniqueFd socket;
  std::uint64_t features = 0;
  ProtocolBits protocol_features = 0;
  std::uint8_t status = 0;
  std::vector<MemoryRegionState> memory;
  std::optional<Inflight> inflight;
  std::optional<Log> log;
  UniqueFd log_event;  ///< optional
  std::optional<BackChannelState> back_channel;
  PartialMessage partial_message;  ///< of the front-end
  std::vector<RingState> rings;
};

}  // namespace guestio::vhost
