// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/wire/received_message.h"

/// Blocking vhost-user messages over a Unix stream socket. Every operation has a deadline: a peer
/// that hangs must not hang us.
namespace guestio::vhost {

/// The time to give up.
using Deadline = std::chrono::steady_clock::time_point;

/// A connected socket for messages. After an error the stream may be inside a message: close it.
///
/// Errors: closed (by the peer), peer fault (malformed message), host; host with ETIMEDOUT after
/// the deadline. Threads: one at a time.
class MessageSocket {
 public:
  explicit MessageSocket(UniqueFd fd) noexcept : fd_(std::move(fd)) {}
  /// Connects to a listening socket. Errors also: invalid argument (path empty or too long).
  static Result<MessageSocket> connect(const std::string& path);

  /// Sends header, payload and descriptors.
  /// Requires: payload and descriptors within the limits of messages.h.
  Result<> send(std::uint32_t request, std::uint32_t flags, std::span<const std::byte> payload,
                std::span<const int> descriptors, Deadline deadline);
  /// Receives one message into `message` and drops its earlier content and descriptors.
  Result<> receive(Message& message, Deadline deadline);

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  Result<> receive_exactly(std::span<std::byte> to, DescriptorList& descriptors, Deadline deadline);

  UniqueFd fd_;
};

}  // namespace guestio::vhost
