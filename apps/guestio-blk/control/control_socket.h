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

/// Accepts the commands of an operator at a unix socket with mode 0600. Each command is a line with
/// a JSON object, each reply a line with {"return": ...} or {"error": "..."}.
///
/// A refused command leaves the connection open. A malformed one (no JSON, no object, a line longer
/// than the maximum) gets an error and ends its connection. A peer that does not read its replies
/// blocks only itself. A connection beyond kMaxConnections evicts the one with the longest idle
/// time: idle clients cannot lock an operator out. A takeover under way is not idle.
///
/// Threads: the control thread. Lifetime: serve() has returned when it is destroyed.
class ControlSocket {
 public:
  static constexpr std::size_t kMaxLineBytes = 64 << 10;
  static constexpr std::size_t kMaxConnections = 16;

  /// Executes one command, an object with a string "command", and returns the reply.
  using CommandHandler = std::function<nlohmann::json(const nlohmann::json& command)>;

  /// Errors: those of UnixListener::listen_at().
  static Result<std::unique_ptr<ControlSocket>> listen_at(const std::string& path);
  /// Takes over the listening socket of another process.
  static std::unique_ptr<ControlSocket> adopt(UnixListener listener);
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  /// Owns a connection from the command "takeover" on, until `stop` at the latest. The connection
  /// ends with it.
  using TakeoverHandler =
      std::function<task::Task<>(nlohmann::json command, int socket, task::StopToken stop)>;

  /// Accepts and serves clients until stop().
  task::Task<> serve(uring::Loop& loop, CommandHandler handle_command,
                     TakeoverHandler handle_takeover);
  [[nodiscard]] const UnixListener& listener() const noexcept { return listener_; }
  /// Removes the socket path, if it is still bound to this socket.
  void remove() noexcept { listener_.remove(); }
  void stop() noexcept { stop_.request_stop(); }
  /// Parks the accept loop, so that new clients reach another process (task::RestPoint).
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
    std::uint64_t last_command;  ///< sequence number over commands and connections
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
  std::vector<std::shared_ptr<Connection>> connections_;  // without evicted ones
  std::uint64_t commands_ = 0;
  log::RateLimit shortages_{5, std::chrono::seconds(10)};
};

}  // namespace guestio::app
