// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <optional>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/vhost/session/device_handlers.h"
#include "guestio/vhost/session/log_handlers.h"
#include "guestio/vhost/session/memory_handlers.h"
#include "guestio/vhost/session/postcopy_handlers.h"
#include "guestio/vhost/session/reply.h"
#include "guestio/vhost/session/ring_handlers.h"
#include "guestio/vhost/session/session_context.h"
#include "guestio/vhost/session/session_handover.h"
#include "guestio/vhost/session/session_state.h"
#include "guestio/vhost/wire/messages.h"

namespace guestio::vhost {

/// The connection of one front-end: receives, checks and dispatches its messages and sends the
/// replies. At the end it stops the rings and releases the front-end's memory.
///
/// Errors: a message that breaks a rule is refused. It changes nothing, the reply (if wanted) and a
/// log line report it, and the connection continues. Bytes that form no message end the connection.
///
/// Threads: the control thread, which runs `home`.
class Session {
 public:
  using Parts = SessionContext::Parts;
  using Obstacle = SessionHandover::Obstacle;

  static constexpr std::size_t kMaxStaleRegions = MemoryHandlers::kMaxStaleRegions;
  static constexpr virtio::FeatureBits kRingFeatures = SessionContext::kRingFeatures;

  Session(const Parts& parts, UniqueFd socket) : context_(parts, std::move(socket)) {}

  /// Serves until the front-end or disconnect() closes the connection. Once.
  task::Task<> run();
  /// Ends the connection; run() then drains and returns.
  void disconnect() noexcept { context_.disconnect(); }
  /// Sends CONFIG_CHANGE_MSG: now, or when a ring runs again. Without effect unless
  /// can_notify_config_change().
  void notify_config_changed() noexcept { device_.notify_config_changed(); }
  /// Whether the front-end negotiated CONFIG_CHANGE_MSG and opened the back channel.
  [[nodiscard]] bool can_notify_config_change() const noexcept {
    return device_.can_notify_config_change();
  }

  // Takeover: as of SessionHandover.

  task::Task<std::optional<Obstacle>> drain(task::StopToken limit) {
    return handover_.drain(limit);
  }
  task::Task<> freeze() { return handover_.freeze(); }
  task::Task<> resume() { return handover_.resume(); }
  [[nodiscard]] Result<SessionState> snapshot() const { return handover_.snapshot(); }
  Result<> restore(SessionState state) { return handover_.restore(std::move(state)); }
  [[nodiscard]] bool is_frozen() const noexcept { return handover_.is_frozen(); }
  /// Whether a reply is being sent, which the front-end may be slow to read.
  [[nodiscard]] bool is_replying() const noexcept { return is_replying_; }

 private:
  task::Task<Result<>> serve_message();
  task::Task<Result<Reply>> dispatch(FrontendRequest request);
  task::Task<Result<Reply>> run_sync(FrontendRequest request);
  Result<Reply> handle_sync(FrontendRequest request);
  task::Task<Result<>> send_outcome(const Result<Reply>& outcome);
  task::Task<> close();
  void log_end(const Error& cause) const;

  SessionContext context_;
  PostcopyHandlers postcopy_{context_};
  MemoryHandlers memory_{context_, postcopy_};
  LogHandlers log_{context_};
  DeviceHandlers device_{context_};
  RingHandlers ring_{context_};
  SessionHandover handover_{context_, memory_, log_, postcopy_};
  bool is_replying_ = false;
};

}  // namespace guestio::vhost
