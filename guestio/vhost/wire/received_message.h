// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/wire/messages.h"

/// One received vhost-user message: header, payload and file descriptors.
namespace guestio::vhost {

/// Control buffer of a recvmsg(): room for kMaxDescriptors and at least one more. The surplus one
/// tells too many descriptors of the peer from a lack of descriptors in this process.
struct alignas(cmsghdr) DescriptorControlBuffer {
  std::array<std::byte, CMSG_SPACE(sizeof(int) * (kMaxDescriptors + 1))> bytes{};
};

/// File descriptors received with a message. The destructor closes those not taken.
class DescriptorList {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] bool is_empty() const noexcept { return count_ == 0; }
  /// Requires: index < size().
  [[nodiscard]] UniqueFd take(std::size_t index) noexcept { return std::move(items_[index]); }
  /// The list keeps the descriptor. Requires: index < size().
  [[nodiscard]] int peek(std::size_t index) const noexcept { return items_[index].get(); }
  /// Requires: size() < kMaxDescriptors.
  void add(UniqueFd item) noexcept { items_[count_++] = std::move(item); }
  /// Takes all descriptors that `received` carries and closes the surplus.
  /// Errors: peer fault (too many descriptors), host (EMFILE, ENFILE: no room for them in this
  /// process or in the system, no fault of the peer).
  /// Requires: a DescriptorControlBuffer as the control buffer.
  Result<> collect(msghdr& received) noexcept;
  void clear() noexcept;

 private:
  std::array<UniqueFd, kMaxDescriptors> items_;
  std::size_t count_ = 0;
};

/// A message, whole or partially received.
struct Message {
  MessageHeader header{};
  std::array<std::byte, kMaxPayload> bytes;  ///< the payload is the first header.size
  DescriptorList descriptors;
  /// Bytes of header and payload received so far; 0: the message is whole.
  std::size_t received = 0;

  [[nodiscard]] std::span<const std::byte> payload() const noexcept {
    return std::span(bytes).first(header.size);
  }
  /// The payload as a T; empty unless it has exactly the size of one.
  template <typename T>
  [[nodiscard]] std::optional<T> as() const noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    if (header.size != sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
};

/// The reason why the kernel truncated descriptors (MSG_CTRUNC) despite room in the control buffer.
/// The kernel does not report it; a new descriptor of this process meets the same limit. Always a
/// host failure.
[[nodiscard]] Error descriptor_truncation_error() noexcept;

}  // namespace guestio::vhost
