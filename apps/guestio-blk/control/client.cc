// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/control/client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstdio>
#include <expected>
#include <nlohmann/json.hpp>
#include <span>

#include "apps/guestio-blk/options/options.h"
#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;

}  // namespace

Result<UniqueFd> connect_to_control(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kTooLarge, "length of the socket path", path.size(),
                sizeof address.sun_path - 1);
  }
  path.copy(address.sun_path, path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_host("make a socket");
  const timeval limit{.tv_sec = 10, .tv_usec = 0};
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  // Safe: the socket API passes the structures of address families this way.
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_host("connect to the control socket");
  }
  return socket;
}

namespace {

/// An upper bound for replies: the path may lead to any server.
constexpr std::size_t kMaxReplyBytes = std::size_t{64} << 20;

/// Sends a line and receives the reply.
Result<std::string> exchange(const UniqueFd& socket, const std::string& line) {
  const auto sent = ::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(line.size())) return fail_host("send the command");
  std::string reply;
  std::array<char, 65536> bytes;
  while (!reply.ends_with('\n')) {
    const auto got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
    if (got < 0) return fail_host("receive the reply");
    if (got == 0) return fail(ErrorKind::kClosed, "receive the reply");
    if (reply.size() > kMaxReplyBytes) {
      return fail(ErrorKind::kTooLarge, "length of the reply", reply.size(), kMaxReplyBytes);
    }
    reply.append(bytes.data(), static_cast<std::size_t>(got));
  }
  return reply;
}

}  // namespace

namespace {

/// The command in the words after the path: COMMAND [DISK] [KEY=VALUE...].
std::expected<Json, std::string> make_command(std::span<const std::string> words) {
  Json command = {{"command", words[0]}};
  for (std::size_t i = 1; i < words.size(); ++i) {
    const auto equals = words[i].find('=');
    if (equals != std::string::npos) {
      command["limits"][words[i].substr(0, equals)] = words[i].substr(equals + 1);
    } else if (i == 1) {
      command["disk"] = words[i];
    } else {
      return std::unexpected(fmt::format("{}: expected KEY=VALUE", words[i]));
    }
  }
  return command;
}

}  // namespace

int run_client(const std::vector<std::string>& arguments) {
  const auto made = make_command(std::span(arguments).subspan(1));
  if (!made) {
    fmt::print(stderr, "guestio-blk: --ask: {}\n", made.error());
    return kExitUsage;
  }
  const Json& command = *made;
  const auto line = command.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const auto socket = connect_to_control(arguments[0]);
  if (!socket) {
    fmt::print(stderr,
               "guestio-blk: {}: {} (--ask takes the path that the running process was given with "
               "--control)\n",
               arguments[0], socket.error().to_string());
    return kExitUsage;
  }
  const auto reply = exchange(*socket, line);
  if (!reply) {
    fmt::print(stderr, "guestio-blk: {}: {}\n", arguments[0], reply.error().to_string());
    return kExitFailure;
  }
  const auto json = Json::parse(*reply, nullptr, false);
  const auto result = json.is_object() ? json.find("return") : json.end();
  if (json.is_discarded() || !json.is_object() || result == json.end()) {
    const auto error = json.is_object() ? json.find("error") : json.end();
    const bool has_error = json.is_object() && error != json.end() && error->is_string();
    fmt::print(stderr, "guestio-blk: {}\n",
               has_error ? error->get_ref<const std::string&>() : "malformed reply");
    return kExitFailure;
  }
  fmt::print("{}\n", result->dump(2));
  return 0;
}

}  // namespace guestio::app
