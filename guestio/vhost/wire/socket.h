// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/wire/messages.h"

/// vhost-user messages over a Unix stream socket, for a thread that may block: with a time limit on
/// everything, because a peer that hangs must not hang us.
namespace guestio::vhost {

/// When to give up.
using Deadline = std::chrono::steady_clock::time_point;

/// Room for the descriptors that come beside one message, and for at least one more: so that a
/// surplus is noticed, and told apart from descriptors that this process cannot have.
struct alignas(cmsghdr) ReceivedDescriptors {
  std::array<std::byte, CMSG_SPACE(sizeof(int) * (kMaxDescriptors + 1))> bytes{};
};

/// The file descriptors that came beside a message; closed unless somebody takes them.
class DescriptorList {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] bool is_empty() const noexcept { return count_ == 0; }
  /// Requires: index < size().
  [[nodiscard]] UniqueFd take(std::size_t index) noexcept { return std::move(items_[index]); }
  /// Still owned. Requires: index < size().
  [[nodiscard]] int peek(std::size_t index) const noexcept { return items_[index].get(); }
  /// Requires: size() < kMaxDescriptors.
  void add(UniqueFd item) noexcept { items_[count_++] = std::move(item); }
  /// Takes over all that `received` carries and closes what there is no room for.
  /// Errors: peer fault when there are too many; host (EMFILE, ENFILE) when this process or the
  /// system has no room for them, which is not the peer's fault.
  /// Requires: ReceivedDescriptors as the control buffer.
  Result<> collect(msghdr& received) noexcept;
  void clear() noexcept;

 private:
  std::array<UniqueFd, kMaxDescriptors> items_;
  std::size_t count_ = 0;
};

/// One message that was received whole, or is being received.
struct Message {
  MessageHeader header{};
  std::array<std::byte, kMaxPayload> bytes;  // the first header.size are the payload
  DescriptorList descriptors;
  /// Of a message of which not all is there yet: header and payload so far; 0: it is whole.
  std::size_t received = 0;

  [[nodiscard]] std::span<const std::byte> payload() const noexcept {
    return std::span(bytes).first(header.size);
  }
  /// The payload as a T, if it is exactly as long as one.
  template <typename T>
  [[nodiscard]] std::optional<T> as() const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    if (header.size != sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
};

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
