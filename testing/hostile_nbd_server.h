// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "testing/temporary.h"

namespace guestio::testing {

/// Bytes of the NBD protocol, in network order.
class NbdBytes {
 public:
  NbdBytes& u8(std::uint8_t value) { return number(value, 1); }
  NbdBytes& u16(std::uint16_t value) { return number(value, 2); }
  NbdBytes& u32(std::uint32_t value) { return number(value, 4); }
  NbdBytes& u64(std::uint64_t value) { return number(value, 8); }
  NbdBytes& zeroes(std::size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  [[nodiscard]] std::span<const std::byte> span() const& noexcept { return bytes_; }
  [[nodiscard]] std::vector<std::byte> span() && noexcept { return std::move(bytes_); }

 private:
  NbdBytes& number(std::uint64_t value, unsigned size);

  std::vector<std::byte> bytes_;
};

/// What a fixed newstyle server says in its handshake, right or wrong.
struct NbdHandshake {
  std::uint64_t size = std::uint64_t{4} << 20;
  std::uint16_t flags = kUsualFlags;
  /// Of an info reply; absent: none.
  struct Blocks {
    std::uint32_t minimum;
    std::uint32_t preferred;
    std::uint32_t maximum;
  };
  std::optional<Blocks> blocks = std::nullopt;

  static constexpr std::uint16_t kHasFlags = 1;
  static constexpr std::uint16_t kReadOnly = 2;
  static constexpr std::uint16_t kFlush = 4;
  static constexpr std::uint16_t kFua = 8;
  static constexpr std::uint16_t kTrim = 32;
  static constexpr std::uint16_t kZero = 64;
  static constexpr std::uint16_t kMultiConn = 256;
  static constexpr std::uint16_t kUsualFlags =
      kHasFlags | kFlush | kFua | kTrim | kZero | kMultiConn;

  /// All bytes to a client that asks for no structured replies. It needs no answer of the client.
  [[nodiscard]] NbdBytes bytes() const;
};

/// The server's end of one connection.
class NbdPeer {
 public:
  explicit NbdPeer(UniqueFd socket) noexcept : socket_(std::move(socket)) {}

  struct Request {
    std::uint16_t flags;
    std::uint16_t type;
    std::uint64_t cookie;
    std::uint64_t offset;
    std::uint32_t length;
  };
  static constexpr std::uint32_t kReplyMagic = 0x67446698;

  /// Sends the handshake and takes the client's part of it.
  void shake_hands(const NbdHandshake& handshake = {});
  void send(const NbdBytes& bytes);
  /// The next request, with its payload thrown away; nothing at the end of the connection.
  std::optional<Request> receive();
  void reply(std::uint64_t cookie, std::uint32_t error = 0, std::size_t payload = 0);
  /// Returns once the client has ended its direction.
  void wait_for_end();
  void close() { socket_.reset(); }

 private:
  bool receive_exactly(std::span<std::byte> bytes);

  UniqueFd socket_;
};

/// A server that follows a script, on a thread of its own and at a Unix socket.
class HostileNbdServer {
 public:
  using Script = std::function<void(HostileNbdServer& server)>;

  explicit HostileNbdServer(Script script);
  HostileNbdServer(const HostileNbdServer&) = delete;
  HostileNbdServer& operator=(const HostileNbdServer&) = delete;
  /// Ends waits of the script.
  ~HostileNbdServer();

  [[nodiscard]] std::string uri() const { return "nbd+unix:///?socket=" + path_; }

  // For the script.
  /// The next connection; one without a peer after the end of the test.
  NbdPeer accept();
  [[nodiscard]] bool has_pending_connection() const;

 private:
  TemporaryDirectory folder_;
  const std::string path_ = folder_.file("s");
  UniqueFd listener_;
  std::jthread thread_;
};

}  // namespace guestio::testing
