// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "guestio/base/log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/unix_listener.h"
#include "guestio/task/rest_point.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::app {

/// What an operator's commands come through: a unix socket of its owner's alone (mode 0600), on
/// which each line is a JSON object with a command, and each answer a line with {"return": ...} or
/// {"error": "..."}.
///
/// A command that is refused leaves the connection as it is. What is no command (no JSON, no
/// object, a line longer than kLongestLine) is answered with an error, and ends its connection. A
/// peer that does not read its answers makes only itself wait. When there are kMaxConnections and
/// one more comes, the one that has been idle longest is closed: nobody can keep an operator out by
/// sitting there. A takeover under way is not idle.
///
/// Threads: the control thread. Lifetime: serve() has returned when it is destroyed.
class ControlSocket {
 public:
  static constexpr std::size_t kMaxLineBytes = 64 << 10;
  static constexpr std::size_t kMaxConnections = 16;

  /// Answers one command, an object with a string "command".
  using CommandHandler = std::function<nlohmann::json(const nlohmann::json& command)>;

  /// Errors: those of vhost::Listener::listen_at().
  static Result<std::unique_ptr<ControlSocket>> listen_at(const std::string& path);
  /// Goes on with another process's.
  static std::unique_ptr<ControlSocket> adopt(UnixListener listener);
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  /// Takes a connection over from the command "takeover" on; the connection ends with it. Stops
  /// when `stop` does.
  using TakeoverHandler =
      std::function<task::Task<>(nlohmann::json command, int socket, task::StopToken stop)>;

  /// Until stop().
  task::Task<> serve(uring::Loop& loop, CommandHandler handle_command,
                     TakeoverHandler handle_takeover);
  [[nodiscard]] const UnixListener& listener() const noexcept { return listener_; }
  /// Removes its path, if that is still its own.
  void remove() noexcept { listener_.remove(); }
  void stop() noexcept { stop_.request_stop(); }
  /// Where it accepts nobody, so that whoever comes finds another process (task::RestPoint).
  [[nodiscard]] task::RestPoint& rest_point() noexcept { return rest_; }

 private:
  explicit ControlSocket(UnixListener listener) noexcept : listener_(std::move(listener)) {}
  task::Task<std::int32_t> accept_one(uring::Loop& loop);
  /// One client.
  struct Connection {
    Connection(UniqueFd accepted, task::StopToken parent, std::uint64_t now) noexcept
        : socket(std::move(accepted)), stop(parent), last_command(now) {}

    UniqueFd socket;
    task::StopSource stop;
    std::uint64_t last_command;  ///< in the order of all commands and connections
    bool is_takeover = false;
  };

  bool evict_idlest();
  task::Task<> serve_one(uring::Loop& loop, std::shared_ptr<Connection> connection);
  task::Task<> serve_commands(uring::Loop& loop, Connection& connection);
  task::Task<bool> send_line(uring::Loop& loop, Connection& connection, std::string line);

  UnixListener listener_;
  CommandHandler handle_command_;
  TakeoverHandler handle_takeover_;
  task::StopSource stop_;
  task::RestPoint rest_;
  task::Scope serving_;
  std::vector<std::shared_ptr<Connection>> connections_;  // that have not been closed for another
  std::uint64_t commands_ = 0;
  log::RateLimit shortages_{5, std::chrono::seconds(10)};
};

}  // namespace guestio::app
