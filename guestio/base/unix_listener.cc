// SPDX-License-Identifier: MIT
#include "guestio/base/unix_listener.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "guestio/base/log.h"

namespace guestio {

namespace {

// Front-ends are served one at a time; the others wait in the backlog.
constexpr int kBacklog = 8;

using Clock = std::chrono::steady_clock;
// How long to wait for the end of a listener in an unknown state, and of an exiting one.
constexpr auto kUnknownStateTimeout = std::chrono::milliseconds(1000);
constexpr auto kExitTimeout = std::chrono::milliseconds(10'000);

Result<sockaddr_un> make_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kTooLarge, "length of the socket path", path.size(),
                sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* as_sockaddr(const sockaddr_un& address) noexcept {
  // Safe: the socket API passes each address family's structure this way.
  return reinterpret_cast<const sockaddr*>(&address);
}

enum class ProcessState { kUnknown, kRunning, kExiting };

/// The state of the process that listens at the other end of `probe`.
ProcessState listener_state(const UniqueFd& probe) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
    return ProcessState::kUnknown;  // for example in another PID namespace
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen(fmt::format("/proc/{}/stat", peer.pid).c_str(), "re"), &std::fclose);
  if (!file) return errno == ENOENT ? ProcessState::kExiting : ProcessState::kUnknown;
  std::array<char, 512> text{};
  const std::size_t length = std::fread(text.data(), 1, text.size() - 1, file.get());
  // proc(5): state and flags are fields 3 and 9, after a name with arbitrary characters.
  const auto name_end = std::string_view(text.data(), length).rfind(')');
  char state = 0;
  unsigned flags = 0;
  if (name_end == std::string_view::npos ||
      std::sscanf(text.data() + name_end + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2) {
    return ProcessState::kUnknown;
  }
  constexpr unsigned kPfExiting = 0x4;  // PF_EXITING, linux/sched.h
  return state == 'Z' || state == 'X' || (flags & kPfExiting) != 0 ? ProcessState::kExiting
                                                                   : ProcessState::kRunning;
}

/// Ok when `path` does not exist or is a stale socket without a listener.
Result<> check_replaceable(const std::string& path, const sockaddr_un& address) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return fail_host("stat the socket path");
  }
  if (!S_ISSOCK(status.st_mode)) {
    return fail(ErrorKind::kUnsupported, "listen: the file at the socket path is not a socket");
  }
  // A process killed just now may still seem to listen: its io_uring releases the socket some
  // milliseconds later. Connections made meanwhile are hung up.
  const auto begin = Clock::now();
  while (true) {
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe) return fail_host("create a socket");
    if (::connect(probe.get(), as_sockaddr(address), sizeof address) != 0) {
      if (errno == ECONNREFUSED) return {};
      // Reconnecting front-ends have filled the backlog: its process cannot be identified.
      if (errno != EAGAIN || Clock::now() >= begin + kExitTimeout) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    // Checked periodically: it may be killed after the first check.
    constexpr int kPollIntervalMs = 100;
    pollfd hang_up{.fd = probe.get(), .events = 0, .revents = 0};
    while (::poll(&hang_up, 1, kPollIntervalMs) == 0) {
      const ProcessState state = listener_state(probe);
      const auto timeout = state == ProcessState::kExiting ? kExitTimeout : kUnknownStateTimeout;
      if (state == ProcessState::kRunning || Clock::now() >= begin + timeout) {
        return fail(ErrorKind::kBusy, "another process listens at the socket path");
      }
    }
  }
  return fail(ErrorKind::kBusy, "another process listens at the socket path");
}

/// Sets mode and owner of a bound path before listen(). Follows no symbolic link.
Result<> set_access(const std::string& path, const SocketAccess& access) {
  // The mode first: an unprivileged process may change it only while it is the owner.
  if (::fchmodat(AT_FDCWD, path.c_str(), access.mode, AT_SYMLINK_NOFOLLOW) != 0) {
    return fail_host("set the mode of the socket");
  }
  if (!access.owner && !access.group) return {};
  constexpr auto kUnchanged = static_cast<std::uint32_t>(-1);
  if (::lchown(path.c_str(), access.owner.value_or(kUnchanged),
               access.group.value_or(kUnchanged)) != 0) {
    return fail_host("set the owner and group of the socket");
  }
  return {};
}

/// From bind() to a visible path: sets the permissions, listens, renames.
Result<> publish(const UniqueFd& socket, const std::string& bound_at, const std::string& path,
                 const SocketAccess& access) {
  // Before listen() every connection is refused, whatever the mode.
  if (auto set = set_access(bound_at, access); !set) return set;
  if (::listen(socket.get(), kBacklog) != 0) return fail_host("listen on the socket");
  if (bound_at != path && std::rename(bound_at.c_str(), path.c_str()) != 0) {
    return fail_host("move the socket to its path");
  }
  return {};
}

}  // namespace

Result<UnixListener::Identity> UnixListener::identify(const std::string& path) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) return fail_host("stat the socket path");
  return Identity{status.st_dev, status.st_ino};
}

Result<UnixListener> UnixListener::listen_at(const std::string& path, const SocketAccess& access) {
  const auto address = make_address(path);
  if (!address) return fail(address.error());
  if (auto free = check_replaceable(path, *address); !free) return fail(free.error());
  // Bound and listening under a temporary name first, then renamed over the path atomically.
  const std::string hidden = fmt::format("{}.{}", path, ::getpid());
  auto hidden_address = make_address(hidden);
  const bool fits = hidden_address.has_value();
  if (!fits) hidden_address = address;
  const std::string& bound_at = fits ? hidden : path;
  if (fits) {
    // In a container a killed predecessor may have had the same PID.
    auto free = check_replaceable(hidden, *hidden_address);
    if (!free) return fail(free.error());
  }

  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_host("create a socket");
  if (::unlink(bound_at.c_str()) != 0 && errno != ENOENT) {
    return fail_host("remove the stale socket");
  }
  // Linux gives the path the descriptor's mode, less the umask (unix_bind() in net/unix/af_unix.c),
  // so the path never has wider permissions than requested.
  if (::fchmod(socket.get(), access.mode) != 0) return fail_host("set the mode of the socket");
  if (::bind(socket.get(), as_sockaddr(*hidden_address), sizeof *hidden_address) != 0) {
    return fail_host("bind the socket");
  }
  if (auto published = publish(socket, bound_at, path, access); !published) {
    ::unlink(bound_at.c_str());
    return fail(published.error());
  }
  const auto identity = identify(path);
  if (!identity) return fail(identity.error());
  return UnixListener(std::move(socket), path, *identity);
}

UnixListener UnixListener::adopt(UniqueFd socket, BoundPath bound_path) {
  return UnixListener(std::move(socket), std::move(bound_path.path),
                      {.device = static_cast<dev_t>(bound_path.device),
                       .inode = static_cast<ino_t>(bound_path.inode)});
}

UnixListener::BoundPath UnixListener::bound_path() const {
  if (path_.empty()) return {};
  std::error_code ignored;
  return {.path = std::filesystem::absolute(path_, ignored).string(),
          .device = identity_.device,
          .inode = identity_.inode};
}

void UnixListener::announce_owner() const noexcept {
  // On a listening socket this changes the process that SO_PEERCRED reports.
  if (::listen(socket_.get(), kBacklog) != 0)
    log::debug("socket {}: SO_PEERCRED still reports the previous process", path_);
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : socket_(std::move(other.socket_)),
      path_(std::exchange(other.path_, {})),
      identity_(other.identity_) {}

UnixListener::~UnixListener() { remove(); }

void UnixListener::remove() noexcept {
  if (path_.empty()) return;
  // No other file can have the inode of an open socket.
  const auto present = identify(path_);
  if (present && *present == identity_) ::unlink(path_.c_str());
  path_.clear();
}

}  // namespace guestio
