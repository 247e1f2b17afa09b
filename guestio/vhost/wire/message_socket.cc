// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/message_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "guestio/base/check.h"

namespace guestio::vhost {

namespace {

/// Waits for `events` on `fd`.
Result<> wait_for(int fd, short events, Deadline deadline) {
  using std::chrono::milliseconds;
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Deadline::clock::now());
    const auto limit = std::clamp<milliseconds::rep>(left.count(), 0, 3'600'000);
    pollfd poller{.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(limit));
    if (ready > 0) return {};
    if (ready == 0) return fail(Error::host(ETIMEDOUT, "wait for the peer"));
    if (errno != EINTR) return fail_host("poll a socket");
  }
}

bool is_gone(int error_number) { return error_number == EPIPE || error_number == ECONNRESET; }

/// Control buffer of a sendmsg() with up to kMaxDescriptors.
struct alignas(cmsghdr) ControlBuffer {
  std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxDescriptors)> bytes{};
};

void attach_descriptors(msghdr& message, ControlBuffer& control, std::span<const int> descriptors) {
  if (descriptors.empty()) return;
  message.msg_control = control.bytes.data();
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
}

/// Takes the first `count` bytes off the front of a scatter list.
void skip(std::array<iovec, 2>& parts, std::size_t count) {
  for (iovec& part : parts) {
    const std::size_t here = std::min(count, part.iov_len);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + here;
    part.iov_len -= here;
    count -= here;
  }
}

}  // namespace

Result<MessageSocket> MessageSocket::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return fail(ErrorKind::kInvalidArgument, "length of the socket path", path.size());
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_host("create a socket");
  // A Unix socket connects at once or waits for room in the listener's backlog.
  const timeval limit{.tv_sec = 5, .tv_usec = 0};
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) != 0) {
    return fail_host("set the timeout of a socket");
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return fail_host("connect to the vhost-user socket");
  }
  return MessageSocket(std::move(fd));
}

Result<> MessageSocket::send(std::uint32_t request, std::uint32_t flags,
                             std::span<const std::byte> payload, std::span<const int> descriptors,
                             Deadline deadline) {
  GUESTIO_CHECK(payload.size() <= kMaxPayload && descriptors.size() <= kMaxDescriptors,
                "a message within the limits");
  MessageHeader header{request, flags, static_cast<std::uint32_t>(payload.size())};
  // sendmsg only reads what its iovec points to.
  std::array<iovec, 2> parts{iovec{&header, sizeof(header)},
                             iovec{const_cast<std::byte*>(payload.data()), payload.size()}};
  std::size_t left = sizeof(header) + payload.size();
  ControlBuffer control;
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  attach_descriptors(message, control, descriptors);
  while (left != 0) {
    const ssize_t sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      left -= static_cast<std::size_t>(sent);
      skip(parts, static_cast<std::size_t>(sent));
      // The first byte carried the descriptors.
      message.msg_control = nullptr;
      message.msg_controllen = 0;
    } else if (errno == EAGAIN) {
      const auto ready = wait_for(fd_.get(), POLLOUT, deadline);
      if (!ready) return fail(ready.error());
    } else if (is_gone(errno)) {
      return fail(ErrorKind::kClosed, "send a vhost-user message");
    } else if (errno != EINTR) {
      return fail_host("send a vhost-user message");
    }
  }
  return {};
}

Result<> MessageSocket::receive(Message& message, Deadline deadline) {
  message.header = {};
  message.descriptors.clear();
  MessageHeader header{};
  auto received =
      receive_exactly(std::as_writable_bytes(std::span(&header, 1)), message.descriptors, deadline);
  if (!received) return received;
  if ((header.flags & kMessageVersionMask) != kMessageVersion) {
    return fail(Error::peer_fault("unknown version of a vhost-user message", header.flags));
  }
  if (header.size > kMaxPayload) {
    return fail(Error::peer_fault("vhost-user message exceeds the maximum size", header.size));
  }
  received =
      receive_exactly(std::span(message.bytes).first(header.size), message.descriptors, deadline);
  if (!received) return received;
  message.header = header;
  return {};
}

Result<> MessageSocket::receive_exactly(std::span<std::byte> to, DescriptorList& descriptors,
                                        Deadline deadline) {
  while (!to.empty()) {
    iovec part{to.data(), to.size()};
    DescriptorControlBuffer control;
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    const ssize_t count = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (count > 0) {
      to = to.subspan(static_cast<std::size_t>(count));
      const auto collected = descriptors.collect(message);
      if (!collected) return collected;
    } else if (count == 0 || is_gone(errno)) {
      return fail(ErrorKind::kClosed, "receive a vhost-user message");
    } else if (errno == EAGAIN) {
      const auto ready = wait_for(fd_.get(), POLLIN, deadline);
      if (!ready) return fail(ready.error());
    } else if (errno != EINTR) {
      return fail_host("receive a vhost-user message");
    }
  }
  return {};
}

}  // namespace guestio::vhost
