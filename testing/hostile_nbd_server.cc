// SPDX-License-Identifier: MIT
#include "testing/hostile_nbd_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::testing {

namespace {

constexpr std::uint64_t kMagic = 0x4e42444d41474943;        // NBDMAGIC
constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;  // IHAVEOPT
constexpr std::uint64_t kOptionReplyMagic = 0x3e889045565a9;
constexpr std::uint32_t kOptionGo = 7;
constexpr std::uint32_t kReplyAck = 1;
constexpr std::uint32_t kReplyInfo = 3;
constexpr std::uint16_t kInfoExport = 0;
constexpr std::uint16_t kInfoBlockSize = 3;
constexpr std::uint16_t kWrite = 1;

template <typename T>
T number_in(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (const std::byte byte : bytes) value = value << 8 | std::to_integer<std::uint64_t>(byte);
  return static_cast<T>(value);
}

NbdBytes& option_reply(NbdBytes& bytes, std::uint32_t type, std::uint32_t length) {
  return bytes.u64(kOptionReplyMagic).u32(kOptionGo).u32(type).u32(length);
}

}  // namespace

NbdBytes& NbdBytes::number(std::uint64_t value, unsigned size) {
  while (size-- != 0) bytes_.push_back(static_cast<std::byte>(value >> (8 * size)));
  return *this;
}

NbdBytes NbdHandshake::bytes() const {
  NbdBytes all;
  all.u64(kMagic).u64(kOptionMagic).u16(3);
  option_reply(all, kReplyInfo, 12).u16(kInfoExport).u64(size).u16(flags);
  if (blocks) {
    option_reply(all, kReplyInfo, 14)
        .u16(kInfoBlockSize)
        .u32(blocks->minimum)
        .u32(blocks->preferred)
        .u32(blocks->maximum);
  }
  option_reply(all, kReplyAck, 0);
  return all;
}

void NbdPeer::send(const NbdBytes& bytes) {
  // The client may have gone.
  std::span<const std::byte> left = bytes.span();
  while (!left.empty()) {
    const auto sent = ::send(socket_.get(), left.data(), left.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    left = left.subspan(static_cast<std::size_t>(sent));
  }
}

bool NbdPeer::receive_exactly(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto count = ::recv(socket_.get(), bytes.data(), bytes.size(), 0);
    if (count <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

void NbdPeer::shake_hands(const NbdHandshake& handshake) {
  send(handshake.bytes());
  // Client flags, then one option: magic, number, length, data.
  std::array<std::byte, 4 + 16> start{};
  if (!receive_exactly(start)) return;
  std::vector<std::byte> data(number_in<std::uint32_t>(std::span(start).last(4)));
  (void)receive_exactly(data);
}

std::optional<NbdPeer::Request> NbdPeer::receive() {
  std::array<std::byte, 28> header{};
  if (!receive_exactly(header)) return std::nullopt;
  const std::span<const std::byte> bytes(header);
  const Request request{.flags = number_in<std::uint16_t>(bytes.subspan(4, 2)),
                        .type = number_in<std::uint16_t>(bytes.subspan(6, 2)),
                        .cookie = number_in<std::uint64_t>(bytes.subspan(8, 8)),
                        .offset = number_in<std::uint64_t>(bytes.subspan(16, 8)),
                        .length = number_in<std::uint32_t>(bytes.subspan(24, 4))};
  if (request.type != kWrite) return request;
  std::vector<std::byte> payload(request.length);
  return receive_exactly(payload) ? std::optional(request) : std::nullopt;
}

void NbdPeer::reply(std::uint64_t cookie, std::uint32_t error, std::size_t payload) {
  NbdBytes bytes;
  send(bytes.u32(kReplyMagic).u32(error).u64(cookie).zeroes(payload));
}

void NbdPeer::wait_for_end() {
  std::array<std::byte, 4096> ignored{};
  while (::recv(socket_.get(), ignored.data(), ignored.size(), 0) > 0) {
  }
}

HostileNbdServer::HostileNbdServer(Script script)
    : listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  GUESTIO_CHECK(path_.size() < sizeof address.sun_path, "a short path of a test's socket");
  std::memcpy(address.sun_path, path_.c_str(), path_.size());
  const auto* const plain = reinterpret_cast<const sockaddr*>(&address);
  GUESTIO_CHECK(::bind(listener_.get(), plain, sizeof address) == 0, "a socket of a test");
  GUESTIO_CHECK(::listen(listener_.get(), 8) == 0, "a listening socket of a test");
  thread_ = std::jthread([this, script = std::move(script)] { script(*this); });
}

HostileNbdServer::~HostileNbdServer() {
  // Ends accept().
  (void)::shutdown(listener_.get(), SHUT_RDWR);
}

NbdPeer HostileNbdServer::accept() {
  return NbdPeer(UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
}

bool HostileNbdServer::has_pending_connection() const {
  pollfd poll{.fd = listener_.get(), .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, 0) > 0;
}

}  // namespace guestio::testing
