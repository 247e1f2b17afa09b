// SPDX-License-Identifier: MIT
#pragma once

#include <optional>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/task.h"
#include "guestio/vhost/session/reply.h"
#include "guestio/vhost/session/session_context.h"
#include "guestio/vhost/session/session_state.h"

namespace guestio::vhost {

/// Messages about the dirty log: the pages that the device has written, for a live migration. After
/// the reply every write is marked in the new log, and none in an earlier one.
///
/// Threads: the control thread. Lifetime: the context outlives it.
class LogHandlers {
 public:
  explicit LogHandlers(SessionContext& session) noexcept : session_(session) {}

  task::Task<Result<Reply>> handle_set_log_base();
  task::Task<Result<Reply>> handle_set_log_fd();

  // For a takeover.

  /// Errors: host.
  [[nodiscard]] Result<> add_to(SessionState& state) const;
  /// Errors: peer fault, host.
  Result<> restore_log(std::optional<SessionState::Log> log);
  /// Errors: peer fault (not an eventfd).
  Result<> set_event(UniqueFd event);

 private:
  Result<> use_log(const LogDescription& description, UniqueFd file);

  SessionContext& session_;
};

}  // namespace guestio::vhost
