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

/// vhost-user messages over a Unix stream socket, for a thread that may block: with a time limit on
/// everything, because a peer that hangs must not hang us.
namespace guestio::vhost {

/// When to give up.
using Deadline = std::chrono::steady_clock::time_point;

/// A connected socket that carries messages. After an error the stream may stand in the middle of a
/// message: close it.
///
/// Errors: closed (the peer is gone), peer fault (what came is no message), host; a time limit that
/// passed is host with ETIMEDOUT. Threads: one at a time.
class MessageSocket {
 public:
  explicit MessageSocket(UniqueFd fd) noexcept : fd_(std::move(fd)) {}
  /// Connects to a listening socket. Errors also: invalid argument (the path is too long).
  static Result<MessageSocket> connect(const std::string& path);

  /// Sends header, payload and descriptors; the header's size is set here.
  /// Requires: payload and descriptors within the limits of messages.h.
  Result<> send(std::uint32_t request, std::uint32_t flags, std::span<const std::byte> payload,
                std::span<const int> descriptors, Deadline deadline);
  /// Receives one message into `message`, whose earlier content and descriptors go away.
  Result<> receive(Message& message, Deadline deadline);

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  Result<> receive_exactly(std::span<std::byte> to, DescriptorList& descriptors, Deadline deadline);

  UniqueFd fd_;
};

}  // namespace guestio::vhost
