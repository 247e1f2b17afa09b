// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/takeover/message.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "guestio/uring/awaitables.h"
#include "guestio/vhost/wire/received_message.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxDescriptorsPerCall = 253;  // SCM_MAX_FD of the kernel

/// Space for the control message with the maximum of descriptors per call.
struct alignas(cmsghdr) RightsBuffer {
  std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxDescriptorsPerCall)> bytes{};
};

bool is_gone(int error_number) noexcept {
  return error_number == EPIPE || error_number == ECONNRESET;
}

/// Waits until `events` hold. Errors: host with ETIMEDOUT.
Result<> wait_for(int socket, short events, MessageDeadline deadline) {
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - MessageDeadline::clock::now());
    pollfd poller{.fd = socket, .events = events, .revents = 0};
    const auto limit = std::clamp<std::int64_t>(left.count(), 0, 3'600'000);
    const int ready = ::poll(&poller, 1, static_cast<int>(limit));
    if (ready > 0) return {};
    if (ready == 0) return fail(Error::host(ETIMEDOUT, "wait for the other process"));
    if (errno != EINTR) return fail_host("wait for the other process");
  }
}

}  // namespace

Json TakeoverMessage::add(UniqueFd descriptor) {
  if (!descriptor) return nullptr;
  descriptors.push_back(std::move(descriptor));
  return descriptors.size() - 1;
}

TakeoverMessageWriter::TakeoverMessageWriter(TakeoverMessage message)
    : descriptors_(std::move(message.descriptors)) {
  message.body["descriptors"] = descriptors_.size();
  line_ = message.body.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<bool> TakeoverMessageWriter::send_some(int socket) {
  while (sent_ < line_.size()) {
    const std::size_t descriptors =
        std::min(descriptors_.size() - sent_descriptors_, kMaxDescriptorsPerCall);
    const bool is_last = sent_descriptors_ + descriptors == descriptors_.size();
    // Every segment but the last has one byte: the line has more bytes than descriptors.
    const auto sent = send_segment(socket, is_last ? line_.size() - sent_ : 1, descriptors);
    if (!sent) return fail(sent.error());
    if (*sent == 0) return false;
    sent_ += static_cast<std::size_t>(*sent);
    sent_descriptors_ += descriptors;
  }
  return true;
}

/// Returns 0 if the socket is full.
Result<ssize_t> TakeoverMessageWriter::send_segment(int socket, std::size_t bytes,
                                                    std::size_t descriptors) {
  iovec part{line_.data() + sent_, bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  RightsBuffer control;
  if (descriptors != 0) {
    message.msg_control = control.bytes.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors);
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * descriptors);
    for (std::size_t i = 0; i < descriptors; ++i) {
      const int fd = descriptors_[sent_descriptors_ + i].get();
      std::memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
    }
  }
  while (true) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    if (errno == EAGAIN) return 0;
    if (is_gone(errno)) return fail(ErrorKind::kClosed, "send to the other process");
    if (errno != EINTR) return fail_host("send to the other process");
  }
}

Result<std::optional<TakeoverMessage>> TakeoverMessageReader::receive_some(int socket) {
  std::array<char, 65536> bytes;
  while (true) {
    iovec part{bytes.data(), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    RightsBuffer control;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return std::nullopt;
    if (got == 0 || (got < 0 && is_gone(errno))) {
      return fail(ErrorKind::kClosed, "receive from the other process");
    }
    if (got < 0) return fail_host("receive from the other process");
    if (auto collected = collect_descriptors(message); !collected) return fail(collected.error());
    line_.append(bytes.data(), static_cast<std::size_t>(got));
    if (line_.ends_with('\n')) {
      auto message = parse_line();
      if (!message) return fail(message.error());
      return std::move(*message);
    }
    if (line_.size() > kMaxMessageBytes) {
      return fail(Error::peer_fault("takeover message is too long", line_.size()));
    }
  }
}

Result<> TakeoverMessageReader::collect_descriptors(msghdr& received) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&received); header != nullptr;
       header = CMSG_NXTHDR(&received, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      descriptors_.emplace_back(fd);
    }
  }
  if (descriptors_.size() > kMaxMessageDescriptors) {
    return fail(
        Error::peer_fault("takeover message has too many descriptors", descriptors_.size()));
  }
  if ((received.msg_flags & MSG_CTRUNC) != 0) return fail(vhost::descriptor_truncation_error());
  return {};
}

/// The sides take turns, so the buffer holds one line.
Result<TakeoverMessage> TakeoverMessageReader::parse_line() {
  TakeoverMessage message{Json::parse(line_, nullptr, false), std::move(descriptors_)};
  line_.clear();
  descriptors_.clear();
  if (message.body.is_discarded() || !message.body.is_object()) {
    return fail(Error::peer_fault("takeover message is not a JSON object"));
  }
  const auto count = message.body.find("descriptors");
  const bool is_counted = count != message.body.end() && count->is_number_unsigned();
  // A refusal by hand has no count of descriptors.
  const std::uint64_t wanted = is_counted ? count->get<std::uint64_t>() : 0;
  if (wanted != message.descriptors.size()) {
    return fail(Error::peer_fault("takeover message lacks announced descriptors", wanted));
  }
  return message;
}

Result<> send_message(int socket, TakeoverMessage message, MessageDeadline deadline) {
  TakeoverMessageWriter sender(std::move(message));
  while (true) {
    const auto done = sender.send_some(socket);
    if (!done) return fail(done.error());
    if (*done) return {};
    if (auto ready = wait_for(socket, POLLOUT, deadline); !ready) return ready;
  }
}

Result<TakeoverMessage> receive_message(int socket, MessageDeadline deadline) {
  TakeoverMessageReader receiver;
  while (true) {
    auto message = receiver.receive_some(socket);
    if (!message) return fail(message.error());
    if (*message) return std::move(**message);
    if (auto ready = wait_for(socket, POLLIN, deadline); !ready) return fail(ready.error());
  }
}

task::Task<Result<>> send_message(uring::Loop& loop, int socket, TakeoverMessage message,
                                  task::StopToken limit) {
  TakeoverMessageWriter sender(std::move(message));
  while (true) {
    const auto done = sender.send_some(socket);
    if (!done) co_return fail(done.error());
    if (*done) co_return Result<>();
    const std::int32_t ready = co_await uring::poll(loop, uring::File(socket), POLLOUT, limit);
    if (ready == -ECANCELED) co_return fail(ErrorKind::kCancelled, "send to the other process");
  }
}

task::Task<Result<TakeoverMessage>> receive_message(uring::Loop& loop, int socket,
                                                    task::StopToken limit) {
  TakeoverMessageReader receiver;
  while (true) {
    auto message = receiver.receive_some(socket);
    if (!message) co_return fail(message.error());
    if (*message) co_return std::move(**message);
    const std::int32_t ready = co_await uring::poll(loop, uring::File(socket), POLLIN, limit);
    if (ready == -ECANCELED)
      co_return fail(ErrorKind::kCancelled, "receive from the other process");
  }
}

}  // namespace guestio::app
