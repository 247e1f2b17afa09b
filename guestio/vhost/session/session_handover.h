// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/vhost/session/log_handlers.h"
#include "guestio/vhost/session/memory_handlers.h"
#include "guestio/vhost/session/postcopy_handlers.h"
#include "guestio/vhost/session/session_context.h"
#include "guestio/vhost/session/session_state.h"

namespace guestio::vhost {

/// Takeover of a session by another process. The session is quiesced throughout: it handles no
/// message (RestPoint). Its rings run until freeze().
///
///     this process                                     next process
///     running ── drain() ──► drained ── freeze() ──► frozen ── snapshot() ──► SessionState
///        ▲                      │                      │                        │ restore()
///        └───────── resume() ───┴──────────────────────┘      running ◄── resume() ── frozen
///
/// Threads: the control thread. Lifetime: context and handlers outlive it.
class SessionHandover {
 public:
  /// The reason why a session cannot be handed over now.
  struct Obstacle {
    std::size_t held_requests = 0;  ///< pending retry, in no in-flight record
    bool is_busy = false;           ///< requests are still executing, or memory still arrives
  };

  SessionHandover(SessionContext& session, MemoryHandlers& memory, LogHandlers& log,
                  PostcopyHandlers& postcopy) noexcept
      : session_(session), memory_(memory), log_(log), postcopy_(postcopy) {}

  /// Stops all rings from taking chains and waits until theirs in flight are completed or, in an
  /// in-flight record, held pending retry; or until `limit` is stopped. Returns an obstacle:
  /// resume() has to follow then.
  task::Task<std::optional<Obstacle>> drain(task::StopToken limit);
  /// Stops all rings with their state kept. Requires: drain() found no obstacle.
  task::Task<> freeze();
  /// Resumes after drain(), freeze() or restore(). A ring that cannot resume is a fault of its
  /// front-end and ends the connection.
  task::Task<> resume();
  /// Errors: host. Requires: frozen.
  [[nodiscard]] Result<SessionState> snapshot() const;
  /// Continues the session of another process, frozen. Errors: peer fault (contradictory state),
  /// unsupported (features not offered here), memory fault (the front-end truncated its memory or
  /// records), host. Requires: before Session::run().
  Result<> restore(SessionState state);
  [[nodiscard]] bool is_frozen() const noexcept { return is_frozen_; }

 private:
  Result<> restore_shared(SessionState& state);
  Result<> restore_inflight(SessionState::Inflight state);
  Result<> restore_rings(std::vector<RingState> rings);
  Result<> restore_pipes(RingState& ring, std::uint16_t index);
  [[nodiscard]] Result<RingState> snapshot_ring(std::uint16_t index) const;
  [[nodiscard]] Result<> add_pipes(RingState& ring, std::uint16_t index) const;

  SessionContext& session_;
  MemoryHandlers& memory_;
  LogHandlers& log_;
  PostcopyHandlers& postcopy_;
  bool is_frozen_ = false;
};

}  // namespace guestio::vhost
