// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/base/error.h"
#include "guestio/task/task.h"
#include "guestio/vhost/session/reply.h"
#include "guestio/vhost/session/session_context.h"

namespace guestio::vhost {

/// Messages about the device as a whole: features, configuration, status, reset, and the back
/// channel.
///
/// Threads: the control thread. Lifetime: the context outlives it.
class DeviceHandlers {
 public:
  explicit DeviceHandlers(SessionContext& session);
  DeviceHandlers(const DeviceHandlers&) = delete;
  DeviceHandlers& operator=(const DeviceHandlers&) = delete;
  ~DeviceHandlers();

  [[nodiscard]] Result<Reply> handle_get_features() const;
  task::Task<Result<Reply>> handle_set_features();
  [[nodiscard]] Result<Reply> handle_get_protocol_features() const;
  Result<Reply> handle_set_protocol_features();
  [[nodiscard]] Result<Reply> handle_get_queue_num() const;
  [[nodiscard]] Result<Reply> handle_get_config() const;
  Result<Reply> handle_set_config();
  [[nodiscard]] Result<Reply> handle_get_status() const;
  task::Task<Result<Reply>> handle_set_status();
  task::Task<Result<Reply>> handle_reset_device();
  task::Task<Result<Reply>> handle_set_backend_req_fd();

  /// As of Session.
  void notify_config_changed() noexcept;
  [[nodiscard]] bool can_notify_config_change() const noexcept;

 private:
  task::Task<> stop_rings();
  void enable_rings_without_protocol_features();
  void report_needs_reset() noexcept;

  SessionContext& session_;
};

}  // namespace guestio::vhost
