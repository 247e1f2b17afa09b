// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_handle.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

namespace guestio::disk {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

NbdConnectFailure failure(ErrorKind kind, std::string detail) {
  return {.failure = {Error::make(kind, "connect to the NBD server"), std::move(detail)}};
}

/// Of the calling thread's last libnbd call.
NbdConnectFailure failure_of_call() {
  const int number = ::nbd_get_errno();
  NbdConnectFailure made = failure(ErrorKind::kPeerFault, last_nbd_error());
  if (number != 0) made.failure.error = Error::host(number, "connect to the NBD server");
  made.is_absent = number == ENOENT || number == ECONNREFUSED;
  return made;
}

bool configure(nbd_handle* handle, const NbdTarget& target) {
  // Replies in chunks cost two more receives a read, and reads get their bytes from the server.
  bool is_done =
      ::nbd_set_request_structured_replies(handle, false) == 0 &&
      ::nbd_set_pread_initialize(handle, false) == 0 &&
      ::nbd_set_export_name(handle, target.export_name.c_str()) == 0 &&
      ::nbd_set_tls(handle, target.uses_tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE) == 0;
  if (!target.tls_psk_file.empty()) {
    is_done = is_done && ::nbd_set_tls_psk_file(handle, target.tls_psk_file.c_str()) == 0;
  }
  if (!target.tls_certificates.empty()) {
    is_done = is_done && ::nbd_set_tls_certificates(handle, target.tls_certificates.c_str()) == 0;
  }
  if (!target.tls_username.empty()) {
    is_done = is_done && ::nbd_set_tls_username(handle, target.tls_username.c_str()) == 0;
  }
#ifdef LIBNBD_HAVE_NBD_SET_TLS_HOSTNAME
  if (!target.tls_hostname.empty()) {
    is_done = is_done && ::nbd_set_tls_hostname(handle, target.tls_hostname.c_str()) == 0;
  }
#endif
  return is_done;
}

/// A dead host ends the connection, too.
void watch_peer(int fd, milliseconds io_timeout) {
  const int on = 1;
  const int seconds = std::max(
      1, static_cast<int>(std::chrono::ceil<std::chrono::seconds>(io_timeout).count()) / 3);
  const auto limit = static_cast<unsigned>(io_timeout.count());
  // Best effort: the I/O timeout remains.
  (void)::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof limit);
}

/// Follows the handshake.
std::expected<void, NbdConnectFailure> negotiate(nbd_handle* handle, int stop_fd,
                                                 Clock::time_point end, milliseconds limit) {
  while (::nbd_aio_is_ready(handle) == 0) {
    if (::nbd_aio_is_dead(handle) == 1) return std::unexpected(failure_of_call());
    if (::nbd_aio_is_closed(handle) == 1) {
      return std::unexpected(failure(ErrorKind::kClosed, "the server closed the connection"));
    }
    const unsigned direction = ::nbd_aio_get_direction(handle);
    const bool reads = (direction & LIBNBD_AIO_DIRECTION_READ) != 0;
    const bool writes = (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0;
    std::array<pollfd, 2> polls{};
    polls[0].fd = ::nbd_aio_get_fd(handle);
    polls[0].events = static_cast<short>((reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
    polls[1] = {.fd = stop_fd, .events = POLLIN, .revents = 0};
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (left.count() <= 0) {
      return std::unexpected(
          failure(ErrorKind::kClosed, fmt::format("no answer of the NBD server within {} s",
                                                  static_cast<double>(limit.count()) / 1000)));
    }
    const int count = ::poll(polls.data(), polls.size(), static_cast<int>(left.count()));
    if (count < 0 && errno != EINTR) {
      return std::unexpected(NbdConnectFailure{
          .failure = {Error::from_errno("poll the connection to the NBD server"), {}}});
    }
    if (polls[1].revents != 0) {
      return std::unexpected(failure(ErrorKind::kCancelled, "the attempt was cancelled"));
    }
    if (count <= 0 || polls[0].revents == 0) continue;
    const bool has_ended = (polls[0].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
    const bool is_readable = reads && ((polls[0].revents & POLLIN) != 0 || has_ended);
    const int notified =
        is_readable ? ::nbd_aio_notify_read(handle) : ::nbd_aio_notify_write(handle);
    if (notified != 0) return std::unexpected(failure_of_call());
  }
  return {};
}

}  // namespace

std::string last_nbd_error() {
  const char* const text = ::nbd_get_error();
  if (text == nullptr) return "no reason given";
  std::string_view words(text);
  if (words.starts_with("nbd_")) {
    if (const auto colon = words.find(": "); colon != std::string_view::npos) {
      words.remove_prefix(colon + 2);
    }
  }
  return std::string(words);
}

std::expected<NbdHandle, NbdConnectFailure> connect_to_nbd_server(
    const NbdTarget& target, int stop_fd, milliseconds limit,
    const std::function<int(const std::function<int()>&)>& resolve) {
  const auto end = Clock::now() + limit;
  NbdHandle handle(::nbd_create());
  if (!handle || !configure(handle.get(), target)) return std::unexpected(failure_of_call());
  // By name, not by a resolved address: libnbd checks the certificate for this name.
  const int begun =
      target.is_unix()
          ? ::nbd_aio_connect_unix(handle.get(), target.socket_path.c_str())
          : resolve([&] {
              return ::nbd_aio_connect_tcp(handle.get(), target.host.c_str(), target.port.c_str());
            });
  if (begun != 0) return std::unexpected(failure_of_call());
  if (auto done = negotiate(handle.get(), stop_fd, end, limit); !done) {
    return std::unexpected(std::move(done.error()));
  }
  if (!target.is_unix()) watch_peer(::nbd_aio_get_fd(handle.get()), target.io_timeout);
  return handle;
}

}  // namespace guestio::disk
