// SPDX-License-Identifier: MIT
#include "control/client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "options/options.h"

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
  // Safe: the socket interface's own way of passing an address family's structure.
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_host("connect to the control socket");
  }
  return socket;
}

namespace {

/// More than any answer has: what stands at the path may be anything.
constexpr std::size_t kMaxReplyBytes = std::size_t{64} << 20;

/// One line each way.
Result<std::string> exchange(const UniqueFd& socket, const std::string& line) {
  const auto sent = ::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(line.size())) return fail_host("send the command");
  std::string answer;
  std::array<char, 65536> bytes;
  while (!answer.ends_with('\n')) {
    const auto got = ::recv(socket.get(), bytes.data(), bytes.size(), 0);
    if (got < 0) return fail_host("receive the answer");
    if (got == 0) return fail(ErrorKind::kClosed, "receive the answer");
    if (answer.size() > kMaxReplyBytes) {
      return fail(ErrorKind::kTooLarge, "length of the answer", answer.size(), kMaxReplyBytes);
    }
    answer.append(bytes.data(), static_cast<std::size_t>(got));
  }
  return answer;
}

}  // namespace

int run_client(const std::vector<std::string>& arguments) {
  Json command = {{"command", arguments[1]}};
  if (arguments.size() > 2) command["disk"] = arguments[2];
  const auto line = command.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const auto socket = connect_to_control(arguments[0]);
  if (!socket) {
    fmt::print(stderr,
               "guestio-blk: {}: {} (--ask takes the path that the running process was given with "
               "--control)\n",
               arguments[0], socket.error().to_string());
    return kExitUsage;
  }
  const auto answer = exchange(*socket, line);
  if (!answer) {
    fmt::print(stderr, "guestio-blk: {}: {}\n", arguments[0], answer.error().to_string());
    return kExitFailure;
  }
  const auto json = Json::parse(*answer, nullptr, false);
  const auto result = json.is_object() ? json.find("return") : json.end();
  if (json.is_discarded() || !json.is_object() || result == json.end()) {
    const auto error = json.is_object() ? json.find("error") : json.end();
    const bool is_told = json.is_object() && error != json.end() && error->is_string();
    fmt::print(stderr, "guestio-blk: {}\n",
               is_told ? error->get_ref<const std::string&>() : "the answer makes no sense");
    return kExitFailure;
  }
  fmt::print("{}\n", result->dump(2));
  return 0;
}

}  // namespace guestio::app
