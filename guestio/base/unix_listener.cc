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

// One front-end is served at a time; the others wait in line.
constexpr int kBacklog = 8;

using Clock = std::chrono::steady_clock;
// For a listener whose process nothing is known of, and for one whose process is seen to end.
constexpr auto kLongestDoubt = std::chrono::milliseconds(1000);
constexpr auto kLongestDying = std::chrono::milliseconds(10'000);

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

enum class Life { kUnknown, kRuns, kEnds };

/// Whether the process that listens at the other end of `probe` goes on or is on its way out.
Life ask_life(const UniqueFd& probe) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0) {
    return Life::kUnknown;  // in another namespace, for one
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen(fmt::format("/proc/{}/stat", peer.pid).c_str(), "re"), &std::fclose);
  if (!file) return errno == ENOENT ? Life::kEnds : Life::kUnknown;
  std::array<char, 512> text{};
  const std::size_t length = std::fread(text.data(), 1, text.size() - 1, file.get());
  // proc(5): the state and the flags come third and ninth, behind a name that may hold anything.
  const auto name_end = std::string_view(text.data(), length).rfind(')');
  char state = 0;
  unsigned flags = 0;
  if (name_end == std::string_view::npos ||
      std::sscanf(text.data() + name_end + 1, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2) {
    return Life::kUnknown;
  }
  constexpr unsigned kExiting = 0x4;  // PF_EXITING, linux/sched.h
  return state == 'Z' || state == 'X' || (flags & kExiting) != 0 ? Life::kEnds : Life::kRuns;
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
  const auto begin = Clock::now();
  while (true) {
    const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe) return fail_host("make a socket");
    if (::connect(probe.get(), as_sockaddr(address), sizeof address) != 0) {
      if (errno == ECONNREFUSED) return {};
      // Front-ends that want to come back have filled its line, and nothing can be asked about it.
      if (errno != EAGAIN || Clock::now() >= begin + kLongestDying) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    // Asked now and then: it may have been about to be killed when it was asked first.
    constexpr int kGlanceMs = 100;
    pollfd hang_up{.fd = probe.get(), .events = 0, .revents = 0};
    while (::poll(&hang_up, 1, kGlanceMs) == 0) {
      const Life life = ask_life(probe);
      const auto longest = life == Life::kEnds ? kLongestDying : kLongestDoubt;
      if (life == Life::kRuns || Clock::now() >= begin + longest) {
        return fail(ErrorKind::kBusy, "another process listens at the socket's path");
      }
    }
  }
  return fail(ErrorKind::kBusy, "another process listens at the socket's path");
}

/// Gives a path that is bound, and does not listen yet, its mode and owner. Follows no symbolic
/// link.
Result<> set_access(const std::string& path, const SocketAccess& access) {
  // The mode first: without privileges only the owner may change it.
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

/// What comes between bind() and the moment in which the path may be found.
Result<> open_to_others(const UniqueFd& socket, const std::string& bound_at,
                        const std::string& path, const SocketAccess& access) {
  // Until it listens connecting is refused to everybody, whatever the mode.
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
  if (::lstat(path.c_str(), &status) != 0) return fail_host("look at the socket's path");
  return Identity{status.st_dev, status.st_ino};
}

Result<UnixListener> UnixListener::listen_at(const std::string& path, const SocketAccess& access) {
  const auto address = make_address(path);
  if (!address) return fail(address.error());
  if (auto free = check_replaceable(path, *address); !free) return fail(free.error());
  // Bound and listening under a name of its own first, then renamed over the path at once.
  const std::string hidden = fmt::format("{}.{}", path, ::getpid());
  auto hidden_address = make_address(hidden);
  const bool fits = hidden_address.has_value();
  if (!fits) hidden_address = address;
  const std::string& bound_at = fits ? hidden : path;
  if (fits) {
    // In a container the process that was killed here had the same number.
    auto free = check_replaceable(hidden, *hidden_address);
    if (!free) return fail(free.error());
  }

  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_host("make a socket");
  if (::unlink(bound_at.c_str()) != 0 && errno != ENOENT) {
    return fail_host("remove the stale socket");
  }
  // Linux gives the path the descriptor's mode, less the umask (unix_bind() in net/unix/af_unix.c):
  // it never shows one that allows more than it will.
  if (::fchmod(socket.get(), access.mode) != 0) return fail_host("set the mode of the socket");
  if (::bind(socket.get(), as_sockaddr(*hidden_address), sizeof *hidden_address) != 0) {
    return fail_host("bind the socket");
  }
  if (auto opened = open_to_others(socket, bound_at, path, access); !opened) {
    ::unlink(bound_at.c_str());
    return fail(opened.error());
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
  // On a socket that listens already this changes whom SO_PEERCRED names.
  if (::listen(socket_.get(), kBacklog) != 0)
    log::debug("socket {}: still named after the process before", path_);
}

UnixListener::UnixListener(UnixListener&& other) noexcept
    : socket_(std::move(other.socket_)),
      path_(std::exchange(other.path_, {})),
      identity_(other.identity_) {}

UnixListener::~UnixListener() { remove(); }

void UnixListener::remove() noexcept {
  if (path_.empty()) return;
  // While the socket is open no other file can have its inode.
  const auto present = identify(path_);
  if (present && *present == identity_) ::unlink(path_.c_str());
  path_.clear();
}

}  // namespace guestio
