// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "guestio/base/unique_fd.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/listener.h"

namespace guestio::app {

/// What an operator's commands come through: a unix socket of its owner's alone (mode 0600), on
/// which each line is a JSON object with a command, and each answer a line with {"return": ...} or
/// {"error": "..."}.
///
/// A command that is refused leaves the connection as it is. What is no command (no JSON, no
/// object, a line longer than kLongestLine) is answered with an error, and ends its connection. A
/// peer that does not read its answers makes only itself wait. Connections beyond kMostConnections
/// are closed at once.
///
/// Threads: the control thread. Lifetime: serve() has returned when it is destroyed.
class ControlSocket {
 public:
  static constexpr std::size_t kLongestLine = 64 << 10;
  static constexpr std::size_t kMostConnections = 16;

  /// Answers one command, an object with a string "command".
  using Answer = std::function<nlohmann::json(const nlohmann::json& command)>;

  /// Errors: those of vhost::Listener::listen_at().
  static Result<std::unique_ptr<ControlSocket>> listen_at(const std::string& path);
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  /// Until stop().
  task::Task<> serve(uring::Loop& loop, Answer answer);
  void stop() noexcept { stop_.request_stop(); }

 private:
  explicit ControlSocket(vhost::Listener listener) noexcept : listener_(std::move(listener)) {}
  task::Task<> serve_one(uring::Loop& loop, UniqueFd socket);
  task::Task<bool> send_line(uring::Loop& loop, int socket, std::string line);

  vhost::Listener listener_;
  Answer answer_;
  task::StopSource stop_;
  task::Scope connections_;
};

}  // namespace guestio::app
