// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/descriptor_kind.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string_view>

namespace guestio::vhost {

bool is_stream_socket(int fd) noexcept {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

namespace {

/// Whether the link of the descriptor in /proc begins with `name`; for a file with a path it begins
/// with "/".
bool link_begins_with(int fd, std::string_view name) noexcept {
  std::array<char, 64> link{};
  std::array<char, 64> target{};
  fmt::format_to_n(link.data(), link.size() - 1, "/proc/self/fd/{}", fd);
  const auto length = ::readlink(link.data(), target.data(), target.size());
  return length > 0 &&
         std::string_view(target.data(), static_cast<std::size_t>(length)).starts_with(name);
}

}  // namespace

bool is_eventfd(int fd) noexcept { return link_begins_with(fd, "anon_inode:[eventfd]"); }

bool is_pipe(int fd) noexcept { return link_begins_with(fd, "pipe:["); }

}  // namespace guestio::vhost
