// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/async_message_io.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "guestio/uring/awaitables.h"

namespace guestio::vhost {

namespace {

Error to_error(std::int32_t result, const char* what) noexcept {
  if (result == -ECANCELED) return Error::make(ErrorKind::kCancelled, what);
  const bool is_gone = result == 0 || result == -ECONNRESET || result == -EPIPE;
  return is_gone ? Error::make(ErrorKind::kClosed, what) : Error::host(-result, what);
}

/// The buffer for the next bytes of the message.
std::span<std::byte> remaining_buffer(Message& message, std::size_t until) noexcept {
  constexpr std::size_t kHeader = sizeof(MessageHeader);
  if (message.received < kHeader) {
    return std::as_writable_bytes(std::span(&message.header, 1)).subspan(message.received);
  }
  return std::span(message.bytes).subspan(message.received - kHeader, until - message.received);
}

/// Receives up to byte `until` of header and payload.
task::Task<Result<>> receive_until(uring::Loop& loop, int socket, Message& message,
                                   std::size_t until, task::StopToken token) {
  while (message.received < until) {
    DescriptorControlBuffer control;
    const std::span<std::byte> to = remaining_buffer(message, until);
    iovec part{to.data(), to.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes.data();
    header.msg_controllen = control.bytes.size();
    const std::int32_t got =
        co_await uring::recvmsg(loop, uring::File(socket), header, MSG_CMSG_CLOEXEC, token);
    if (got == -EINTR) continue;
    if (got == -EAGAIN) {
      // The peer set O_NONBLOCK on the shared open file description.
      (void)co_await uring::poll(loop, uring::File(socket), POLLIN, token);
      continue;
    }
    if (got <= 0) co_return fail(to_error(got, "receive a message"));
    if (auto collected = message.descriptors.collect(header); !collected) co_return collected;
    message.received += static_cast<std::size_t>(got);
  }
  co_return Result<>();
}

task::Task<Result<>> send_message(uring::Loop& loop, int socket, MessageHeader message,
                                  std::span<const std::byte> payload, int descriptor,
                                  task::StopToken token) {
  std::array<std::byte, sizeof(MessageHeader) + kMaxPayload> bytes;
  std::memcpy(bytes.data(), &message, sizeof message);
  if (!payload.empty()) std::memcpy(bytes.data() + sizeof message, payload.data(), payload.size());
  auto rest = std::span(bytes).first(sizeof message + payload.size());
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  while (!rest.empty()) {
    iovec part{rest.data(), rest.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (descriptor >= 0) {
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      cmsghdr* const rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
    }
    const std::int32_t sent =
        co_await uring::sendmsg(loop, uring::File(socket), header, MSG_NOSIGNAL, token);
    if (sent == -EINTR) continue;
    if (sent == -EAGAIN) {
      (void)co_await uring::poll(loop, uring::File(socket), POLLOUT, token);
      continue;
    }
    if (sent <= 0) co_return fail(to_error(sent, "send a message"));
    rest = rest.subspan(static_cast<std::size_t>(sent));
    descriptor = -1;  // the first byte carried it
  }
  co_return Result<>();
}

}  // namespace

task::Task<Result<>> receive_message(uring::Loop& loop, int socket, Message& message,
                                     task::StopToken token) {
  if (message.received == 0) message.descriptors.clear();
  const auto has_header =
      co_await receive_until(loop, socket, message, sizeof message.header, token);
  if (!has_header) co_return has_header;
  if ((message.header.flags & kMessageVersionMask) != kMessageVersion) {
    co_return fail(Error::peer_fault("unknown message version", message.header.flags));
  }
  if (message.header.size > message.bytes.size()) {
    co_return fail(Error::peer_fault("message exceeds the maximum size", message.header.size));
  }
  const std::size_t whole = sizeof message.header + message.header.size;
  const auto has_payload = co_await receive_until(loop, socket, message, whole, token);
  if (has_payload) message.received = 0;
  co_return has_payload;
}

task::Task<Result<>> send_reply(uring::Loop& loop, int socket, std::uint32_t request,
                                std::span<const std::byte> payload, int descriptor) {
  const MessageHeader header{request, kMessageVersion | kMessageReply,
                             static_cast<std::uint32_t>(payload.size())};
  const task::StopToken never;
  co_return co_await send_message(loop, socket, header, payload, descriptor, never);
}

task::Task<Result<>> send_request(uring::Loop& loop, int socket, BackendRequest request,
                                  Acknowledgement acknowledgement,
                                  std::span<const std::byte> payload, task::StopToken token) {
  const bool is_wanted = acknowledgement == Acknowledgement::kWanted;
  const MessageHeader header{std::to_underlying(request),
                             kMessageVersion | (is_wanted ? kMessageNeedReply : 0),
                             static_cast<std::uint32_t>(payload.size())};
  co_return co_await send_message(loop, socket, header, payload, -1, token);
}

}  // namespace guestio::vhost
