// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/control/control_socket.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>

#include "guestio/base/log.h"
#include "guestio/uring/awaitables.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;

/// A line of JSON; invalid UTF-8 is replaced.
std::string to_line(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// Parses a command, or returns an error text.
std::expected<Json, std::string> parse(const std::string& line) {
  auto value = Json::parse(line, nullptr, false);
  if (value.is_discarded()) {
    return std::unexpected("the line is not JSON: a command looks like {\"command\":\"help\"}");
  }
  const auto command = value.is_object() ? value.find("command") : value.end();
  if (!value.is_object() || command == value.end() || !command->is_string()) {
    return std::unexpected(
        "the line is not an object with a command, as in {\"command\":\"help\"}");
  }
  return value;
}

}  // namespace

Result<std::unique_ptr<ControlSocket>> ControlSocket::listen_at(const std::string& path) {
  auto listener = UnixListener::listen_at(path, {.mode = 0600, .owner = {}, .group = {}});
  if (!listener) return fail(listener.error());
  return std::unique_ptr<ControlSocket>(new ControlSocket(std::move(*listener)));
}

std::unique_ptr<ControlSocket> ControlSocket::adopt(UnixListener listener) {
  return std::unique_ptr<ControlSocket>(new ControlSocket(std::move(listener)));
}

task::Task<> ControlSocket::serve(uring::Loop& loop, CommandHandler handle_command,
                                  TakeoverHandler handle_takeover) {
  handle_command_ = std::move(handle_command);
  handle_takeover_ = std::move(handle_takeover);
  constexpr std::chrono::milliseconds kMinPause(10);
  constexpr std::chrono::milliseconds kMaxPause(200);
  auto pause = kMinPause;
  while (!stop_.stop_requested()) {
    if (rest_.is_requested()) {
      co_await rest_.rest();
      continue;
    }
    const std::int32_t accepted = co_await accept_one(loop);
    if (accepted == -ECANCELED) continue;
    if (accepted < 0) {
      const Error cause = Error::host(-accepted, "accept a client");
      log::rate_limited_warning(shortages_, "control socket: host failure: {}", cause.to_string());
      // The socket stays ready while descriptors are short.
      (void)co_await uring::sleep(loop, pause, stop_.token());
      pause = std::min(2 * pause, kMaxPause);
      continue;
    }
    pause = kMinPause;
    UniqueFd socket(accepted);
    if (!evict_idlest()) continue;
    auto connection = std::make_shared<Connection>(std::move(socket), stop_.token(), ++commands_);
    connections_.push_back(connection);
    serving_.spawn(serve_one(loop, std::move(connection)));
  }
  rest_.end();
  co_await serving_.join();
}

task::Task<std::int32_t> ControlSocket::accept_one(uring::Loop& loop) {
  task::StopSource either(stop_.token());
  const task::StopCallback on_rest(rest_.token(), [&either]() noexcept { either.request_stop(); });
  co_return co_await uring::accept(loop, uring::File(listener_.fd()), SOCK_CLOEXEC, either.token());
}

/// Makes room for one more connection. Returns false if only takeovers are left.
bool ControlSocket::evict_idlest() {
  if (connections_.size() < kMaxConnections) return true;
  auto idlest = connections_.end();
  for (auto one = connections_.begin(); one != connections_.end(); ++one) {
    if ((*one)->is_takeover) continue;
    if (idlest == connections_.end() || (*one)->last_command < (*idlest)->last_command) {
      idlest = one;
    }
  }
  if (idlest == connections_.end()) return false;
  const std::shared_ptr<Connection> closed = std::move(*idlest);
  connections_.erase(idlest);
  log::debug("control socket: {} clients: closing the one with the longest idle time",
             kMaxConnections);
  closed->stop.request_stop();
  return true;
}

task::Task<> ControlSocket::serve_one(uring::Loop& loop, std::shared_ptr<Connection> connection) {
  co_await serve_commands(loop, *connection);
  std::erase(connections_, connection);
}

task::Task<> ControlSocket::serve_commands(uring::Loop& loop, Connection& connection) {
  std::string pending;
  std::array<char, 4096> bytes;
  while (true) {
    const auto to = std::as_writable_bytes(std::span(bytes));
    const std::int32_t got = co_await uring::read(loop, uring::File(connection.socket.get()), to,
                                                  uring::kCurrentPosition, connection.stop.token());
    if (got <= 0) co_return;
    pending.append(bytes.data(), static_cast<std::size_t>(got));
    for (auto end = pending.find('\n'); end != std::string::npos; end = pending.find('\n')) {
      const std::string line = pending.substr(0, end);
      pending.erase(0, end + 1);
      connection.last_command = ++commands_;
      const auto command = parse(line);
      if (command && (*command)["command"] == "takeover") {
        connection.is_takeover = true;
        co_await handle_takeover_(*command, connection.socket.get(), stop_.token());
        co_return;
      }
      const Json answer = command ? handle_command_(*command) : Json{{"error", command.error()}};
      const bool was_sent = co_await send_line(loop, connection, to_line(answer));
      if (!was_sent || !command) co_return;
    }
    if (pending.size() > kMaxLineBytes) {
      std::string line = to_line(Json{{"error", "the line is too long"}});
      co_await send_line(loop, connection, std::move(line));
      co_return;
    }
  }
}

task::Task<bool> ControlSocket::send_line(uring::Loop& loop, Connection& connection,
                                          std::string line) {
  std::span<char> rest(line);
  while (!rest.empty()) {
    iovec part{rest.data(), rest.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    const std::int32_t sent = co_await uring::sendmsg(
        loop, uring::File(connection.socket.get()), message, MSG_NOSIGNAL, connection.stop.token());
    if (sent <= 0) co_return false;
    rest = rest.subspan(static_cast<std::size_t>(sent));
  }
  co_return true;
}

}  // namespace guestio::app
