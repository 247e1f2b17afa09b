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

/// What the backend tells the front-end unasked, over the socket that came with SET_BACKEND_REQ_FD.
///
/// News of one kind that come while the front-end has not taken the last are one message: a
/// front-end that reads slowly, or never, costs no memory and makes nobody wait. With
/// acknowledgements one message is out at a time.
/// A front-end that answers with nonsense hears nothing more.
///
/// Threads: the control thread, which runs `home`. Lifetime: close() before it is destroyed.
class BackChannel {
 public:
  BackChannel(uring::Loop& home, std::shared_ptr<PeerLog> log) noexcept
      : home_(home), log_(std::move(log)) {}
  BackChannel(const BackChannel&) = delete;
  BackChannel& operator=(const BackChannel&) = delete;
  ~BackChannel() = default;

  /// Talks over `socket` from now on. Requires: it is closed.
  void open(UniqueFd socket, Acknowledgement acknowledgement);
  [[nodiscard]] bool is_open() const noexcept { return conversation_.has_value(); }
  /// Open, and the front-end has kept to the rules so far.
  [[nodiscard]] bool is_usable() const noexcept { return is_open() && !conversation_->is_violated; }
  /// Ends the connection and forgets what was not said.
  task::Task<> close();

  // For another process that is to go on with the conversation. All may be called when it is
  // closed.

  /// Says nothing more, and waits for no answer; nothing is lost.
  task::Task<> freeze();
  void resume();
  /// Errors: host. Requires: paused.
  [[nodiscard]] Result<std::optional<BackChannelState>> snapshot() const;
  /// Takes a conversation over, paused. Errors: peer fault (it makes no sense). Requires: closed.
  Result<> restore(BackChannelState state);

  /// Sends CONFIG_CHANGE_MSG, or keeps it while the device is suspended. Without a connection
  /// nothing is kept: a front-end reads the configuration when it sets the device up.
  void report_config_changed() noexcept;
  // For rings whose front-end takes events as messages. Both are kept until they can be said: an
  // event that is lost would leave a driver waiting.

  /// Sends VRING_CALL for a ring. Requires: index < kMaxQueues.
  void tell_called(std::uint16_t ring) noexcept;
  /// Sends VRING_ERR for a ring. Requires: index < kMaxQueues.
  void signal_error(std::uint16_t ring) noexcept;
  /// While no ring runs a backend has to keep its news to itself (vhost-user, "Suspended device
  /// state").
  void set_suspended(bool is_suspended) noexcept;

 private:
  struct Conversation {
    UniqueFd socket;
    Acknowledgement acknowledgement;
    std::unique_ptr<task::StopSource> stop = std::make_unique<task::StopSource>();
    bool is_violated = false;                          // by nonsense
    std::optional<BackendRequest> awaits_answer = {};  // to this
  };

  /// What is to be said about rings.
  using Rings = std::bitset<kMaxQueues>;

  task::Task<> talk();
  task::Task<Result<>> send_next();
  task::Task<Result<>> say(BackendRequest request, std::span<const std::byte> payload);
  task::Task<Result<>> hear_answer();
  [[nodiscard]] bool has_news() const noexcept {
    return !is_suspended_ && (has_config_changed_ || called_.any() || broken_.any());
  }

  uring::Loop& home_;
  const std::shared_ptr<PeerLog> log_;
  std::optional<Conversation> conversation_;
  bool has_config_changed_ = false;
  Rings called_;
  Rings broken_;
  std::uint16_t turn_ = 0;  // the ring that was spoken of last
  bool is_suspended_ = true;
  task::Event news_;
  task::Scope talking_;
  Message answer_;
};

}  // namespace guestio::vhost
