// SPDX-License-Identifier: MIT
#include "guestio/base/write_with_timeout.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

namespace guestio {

namespace {

/// Waits until `fd` is writable, at most `timeout`, restarted after a signal.
bool wait_writable(int fd, std::chrono::milliseconds timeout) noexcept {
  pollfd waits{.fd = fd, .events = POLLOUT, .revents = 0};
  int ready = ::poll(&waits, 1, static_cast<int>(timeout.count()));
  while (ready < 0 && errno == EINTR) ready = ::poll(&waits, 1, static_cast<int>(timeout.count()));
  return ready == 1 && (waits.revents & POLLOUT) != 0;
}

/// One write, non-blocking where the kernel supports it.
ssize_t try_write(int fd, mode_t mode, std::string_view text) noexcept {
  if (S_ISSOCK(mode)) return ::send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (S_ISFIFO(mode)) {
    iovec part{const_cast<char*>(text.data()), text.size()};
    const ssize_t written = ::pwritev2(fd, &part, 1, -1, RWF_NOWAIT);
    if (written >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS)) return written;
  }
  return ::write(fd, text.data(), text.size());
}

}  // namespace

bool write_with_timeout(int fd, std::string_view text, std::chrono::milliseconds timeout) noexcept {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return false;
  while (!text.empty()) {
    if (!wait_writable(fd, timeout)) return false;
    const ssize_t written = try_write(fd, status.st_mode, text);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace guestio
