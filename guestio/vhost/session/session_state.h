// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/socket.h"
#include "guestio/virtio/layout.h"

/// What a session is, as a value: all that another process needs to go on with it. Every descriptor
/// is the value's own.
namespace guestio::vhost {

/// What has come of a message that is not whole yet.
struct PartialMessage {
  std::vector<std::byte> bytes;  ///< of header and payload
  std::vector<UniqueFd> descriptors;

  /// Errors: host.
  static Result<PartialMessage> of(const Message& message);
  /// `message`, which holds nothing, goes on from here. Errors: peer fault (more than one message).
  Result<> move_to(Message& message) &&;
};

/// One ring: what its front-end said of it, and where it goes on.
struct RingState {
  std::uint32_t size = 0;
  std::uint32_t base = 0;
  std::optional<VringAddress> addresses = std::nullopt;
  bool is_kick_known = false;
  bool is_enabled = false;
  bool runs = false;
  std::uint64_t features = 0;  ///< with which it runs
  // Each may be empty.
  UniqueFd kick = {};
  UniqueFd call = {};
  UniqueFd error = {};
  /// Eventfds that stand for messages of the front-end's (InbandRing); each may be empty.
  struct Inband {
    UniqueFd kick = {};
    UniqueFd call = {};
    UniqueFd error = {};
  };
  Inband inband = {};
};

/// The way back to the front-end.
struct BackChannelState {
  UniqueFd socket;
  bool wants_acknowledgement = false;
  bool is_usable = true;
  bool has_config_changed = false;      ///< and that is not said yet
  bool awaits_answer = false;           ///< to what was said last
  std::uint32_t said = 0;               ///< what that was
  PartialMessage answer = {};           ///< as far as it is there
  std::vector<std::uint16_t> broken{};  ///< rings, of which that is not said yet
};

struct SessionState {
  struct Region {
    MemoryRegion where;
    UniqueFd file;
  };
  struct Inflight {
    InflightDescription where;
    virtio::RingKind kind;
    UniqueFd file;
  };
  struct Log {
    LogDescription where;
    UniqueFd file;
  };

  UniqueFd socket;
  std::uint64_t features = 0;
  ProtocolBits protocol_features = 0;
  std::uint8_t status = 0;
  std::vector<Region> memory;
  std::optional<Inflight> inflight;
  std::optional<Log> log;
  UniqueFd log_event;  ///< or nothing
  std::optional<BackChannelState> channel;
  PartialMessage incoming;
  std::vector<RingState> rings;
};

}  // namespace guestio::vhost
