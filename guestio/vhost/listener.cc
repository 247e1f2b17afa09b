// SPDX-License-Identifier: MIT
#include "guestio/vhost/listener.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

namespace guestio::vhost {

namespace {

// One front-end is served at a time; the others wait in line.
constexpr int kBacklog = 8;

using Clock = std::chrono::steady_clock;
constexpr auto kLongestDying = std::chrono::milliseconds(1000);

Result<sockaddr_un> make_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kTooLarge, "length of the socket's path", path.size(),
                sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* as_sockaddr(const sockaddr_un& address) noexcept {
  // Safe: the socket interface's own way of passing an address family's structure.
  return reinterpret_cast<const sockaddr*>(&address);
}

/// Ok when `path` does not exist or is a socket that nobody listens on.
Result<> check_replaceable(const std::string& path, const sockaddr_un& address) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return fail_host("look at the socket's path");
  }
  if (!S_ISSOCK(status.st_mode)) {
    return fail(ErrorKind::kUnsupported,
                "replace what is at the socket's path, which is no socket");
  }
  // A process that was killed a moment ago may still seem to listen: its ring lets go of the socket
  // some milliseconds after it. Then what connects is hung up on.
  const auto deadline = Clock::now() + kLongestDying;
  while (true) {
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe) return fail_host("make a socket");
    if (::connect(probe.get(), as_sockaddr(address), sizeof address) != 0) {
      if (errno == ECONNREFUSED) return {};
      // Front-ends that want to come back have filled its line.
      if (errno != EAGAIN || Clock::now() >= deadline) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd hang_up{.fd = probe.get(), .events = 0, .revents = 0};
    if (left.count() <= 0 || ::poll(&hang_up, 1, static_cast<int>(left.count())) <= 0) break;
  }
  return fail(ErrorKind::kBusy, "another process listens at the socket's path");
}

}  // namespace

Result<Listener::Identity> Listener::identify(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return fail_host("look at the socket's path");
  return Identity{status.st_dev, status.st_ino};
}

Result<Listener> Listener::listen_at(const std::string& path) {
  const auto address = make_address(path);
  if (!address) return fail(address.error());
  if (auto free = check_replaceable(path, *address); !free) return fail(free.error());
  // Bound and listening under a name of its own first, then renamed over the path at once.
  const std::string hidden = fmt::format("{}.{}", path, ::getpid());
  auto hidden_address = make_address(hidden);
  const bool fits = hidden_address.has_value();
  if (!fits) hidden_address = address;
  const std::string& bound_at = fits ? hidden : path;

  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_host("make a socket");
  if (!fits && ::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return fail_host("remove the stale socket");
  }
  if (::bind(socket.get(), as_sockaddr(*hidden_address), sizeof *hidden_address) != 0) {
    return fail_host("bind the socket");
  }
  if (::listen(socket.get(), kBacklog) != 0) {
    const auto error = fail_host("listen on the socket");
    ::unlink(bound_at.c_str());
    return error;
  }
  if (fits && std::rename(hidden.c_str(), path.c_str()) != 0) {
    const auto error = fail_host("move the socket to its path");
    ::unlink(hidden.c_str());
    return error;
  }
  const auto identity = identify(path);
  if (!identity) return fail(identity.error());
  return Listener(std::move(socket), path, *identity);
}

Listener::Listener(Listener&& other) noexcept
    : socket_(std::move(other.socket_)),
      path_(std::exchange(other.path_, {})),
      identity_(other.identity_) {}

Listener::~Listener() {
  if (path_.empty()) return;
  const auto present = identify(path_);
  if (present && *present == identity_) ::unlink(path_.c_str());
}

}  // namespace guestio::vhost
