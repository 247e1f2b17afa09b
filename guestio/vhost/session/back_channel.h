// SPDX-License-Identifier: MIT
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/peer_log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/event.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/wire/async_message_io.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/partial_message.h"

namespace guestio::vhost {

/// Snapshot of a BackChannel.
struct BackChannelState {
  UniqueFd socket;
  bool wants_acknowledgement = false;
  bool is_usable = true;
  bool is_config_change_pending = false;  ///< CONFIG_CHANGE_MSG not sent yet
  bool awaits_acknowledgement = false;    ///< of the last request
  std::uint32_t awaited_request = 0;      ///< that request
  PartialMessage partial_acknowledgement = {};
  std::vector<std::uint16_t> pending_errors{};  ///< rings whose VRING_ERR is not sent yet
};

/// Sends the backend's requests to the front-end, over the socket of SET_BACKEND_REQ_FD.
///
/// Requests of one kind coalesce until the front-end takes them: a front-end that reads slowly, or
/// never, costs no memory and delays nobody. With acknowledgements, one request is outstanding at a
/// time. A malformed acknowledgement ends the sending.
///
/// Threads: the control thread, which runs `home`. Lifetime: close() before the destructor.
class BackChannel {
 public:
  BackChannel(uring::Loop& home, std::shared_ptr<PeerLog> log) noexcept
      : home_(home), log_(std::move(log)) {}
  BackChannel(const BackChannel&) = delete;
  BackChannel& operator=(const BackChannel&) = delete;
  ~BackChannel() = default;

  /// Sends over `socket` from now on. Requires: closed.
  void open(UniqueFd socket, Acknowledgement acknowledgement);
  [[nodiscard]] bool is_open() const noexcept { return connection_.has_value(); }
  /// Open, without a protocol violation by the front-end so far.
  [[nodiscard]] bool is_usable() const noexcept { return is_open() && !connection_->is_violated; }
  /// Ends the connection and drops pending requests.
  task::Task<> close();

  // Takeover by another process. All four may be called on a closed channel.

  /// Stops sending and receiving; nothing is lost.
  task::Task<> freeze();
  void resume();
  /// Errors: host. Requires: frozen.
  [[nodiscard]] Result<std::optional<BackChannelState>> snapshot() const;
  /// Continues the connection of another process, frozen. Errors: peer fault. Requires: closed.
  Result<> restore(BackChannelState state);

  /// Sends CONFIG_CHANGE_MSG, or keeps it while the device is suspended. Without effect on a closed
  /// channel: a front-end reads the configuration during its set-up.
  void notify_config_changed() noexcept;

  // For rings with in-band notifications. Both are kept until sent: a lost event would leave a
  // driver waiting.

  /// Sends VRING_CALL for a ring. Requires: index < kMaxQueues.
  void signal_call(std::uint16_t ring) noexcept;
  /// Sends VRING_ERR for a ring. Requires: index < kMaxQueues.
  void signal_error(std::uint16_t ring) noexcept;
  /// A backend sends nothing while no ring runs (vhost-user, "Suspended device state").
  void set_suspended(bool is_suspended) noexcept;

 private:
  struct Connection {
    UniqueFd socket;
    Acknowledgement acknowledgement;
    std::unique_ptr<task::StopSource> stop = std::make_unique<task::StopSource>();
    bool is_violated = false;                            // by the front-end
    std::optional<BackendRequest> awaited_request = {};  // its acknowledgement is outstanding
  };

  using RingSet = std::bitset<kMaxQueues>;

  task::Task<> run();
  task::Task<Result<>> send_next();
  task::Task<Result<>> send(BackendRequest request, std::span<const std::byte> payload);
  task::Task<Result<>> receive_acknowledgement();
  [[nodiscard]] bool has_pending() const noexcept {
    return !is_suspended_ &&
           (is_config_change_pending_ || pending_calls_.any() || pending_errors_.any());
  }

  uring::Loop& home_;
  const std::shared_ptr<PeerLog> log_;
  std::optional<Connection> connection_;
  bool is_config_change_pending_ = false;
  RingSet pending_calls_;
  RingSet pending_errors_;
  std::uint16_t last_ring_ = 0;  // of the last VRING_CALL or VRING_ERR
  bool is_suspended_ = true;
  task::Event pending_;
  task::Scope running_;
  Message acknowledgement_;
};

}  // namespace guestio::vhost
