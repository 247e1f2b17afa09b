// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/vhost/wire/message_socket.h"
#include "guestio/vhost/wire/messages.h"

/// The front-end of a vhost-user connection, for programs that load or test a backend.
namespace guestio::vhost {

/// One function for each message of a front-end. Each blocks until the message is sent and its
/// reply, if any, is received. With kProtocolReplyAck all other messages ask for an
/// acknowledgement, and a refusal is an error.
///
/// Errors of all functions: closed; host with ETIMEDOUT (past the deadline); peer fault (an invalid
/// reply, or a refusal, whose value is the backend's). After any error but a refusal the connection
/// is unusable.
///
/// Threads: one at a time.
class Frontend {
 public:
  struct Options {
    std::chrono::milliseconds deadline = std::chrono::seconds(10);  ///< for one message
  };

  /// One region of SET_MEM_TABLE.
  struct Region {
    MemoryRegion where;
    int fd;
  };

  /// The features of both sides.
  struct Negotiated {
    std::uint64_t offered_features = 0;  ///< virtio features, kFeatureProtocolFeatures included
    ProtocolBits offered_protocol = 0;
    std::uint64_t features = 0;
    ProtocolBits protocol = 0;
    std::uint64_t queues = 1;  ///< limit of the backend
  };

  static Result<Frontend> connect(const std::string& path, Options options);
  /// Over a connected socket.
  static Frontend from_socket(UniqueFd fd, Options options) {
    return Frontend(MessageSocket(std::move(fd)), options);
  }

  /// Opens a session as QEMU does: owner, features, protocol features, number of queues. Drops
  /// wanted features that are not offered.
  Result<Negotiated> negotiate(std::uint64_t wanted_features, ProtocolBits wanted_protocol);

  Result<> set_owner();
  Result<> reset_owner();
  Result<std::uint64_t> get_features();
  Result<> set_features(std::uint64_t features);
  Result<ProtocolBits> get_protocol_features();
  Result<> set_protocol_features(ProtocolBits features);
  Result<std::uint64_t> get_queue_num();

  /// Reads [offset, offset + to.size()) of the configuration space. Errors also: unsupported
  /// (the backend has no such bytes). Requires: to.size() <= kMaxConfig.
  Result<> get_config(std::uint32_t offset, std::span<std::byte> to);
  Result<> set_config(std::uint32_t offset, std::span<const std::byte> from, std::uint32_t flags);

  /// Requires: at most kMaxRegions.
  Result<> set_mem_table(std::span<const Region> regions);

  Result<> set_vring_num(std::uint32_t queue, std::uint32_t size);
  Result<> set_vring_base(std::uint32_t queue, std::uint32_t base);
  /// Stops the queue. Returns its base.
  Result<std::uint32_t> get_vring_base(std::uint32_t queue);
  Result<> set_vring_addr(const VringAddress& address);
  /// The file of an in-flight record, for set_inflight() later.
  struct Inflight {
    InflightDescription where{};
    UniqueFd file;
  };
  /// Asks for a record for these queues. Requires: kProtocolInflightShmfd.
  Result<Inflight> get_inflight(std::uint16_t queues, std::uint16_t queue_size);
  Result<> set_inflight(const Inflight& inflight);

  /// Passes a socket for the backend's requests. Requires: kProtocolBackendReq.
  Result<> set_backend_req_fd(int socket);
  /// Passes the bitmap of dirty pages. Requires: kProtocolLogShmfd.
  Result<> set_log_base(const LogDescription& where, int file);
  /// Passes an eventfd, which the backend signals after it has set bits.
  Result<> set_log_fd(int event);
  // Of the virtio device. Requires: kProtocolStatus.
  Result<> set_status(std::uint8_t status);
  Result<std::uint64_t> get_status();
  /// Requires: kProtocolResetDevice.
  Result<> reset_device();

  // Without `fd` the message has no descriptor.
  Result<> set_vring_kick(std::uint32_t queue, std::optional<int> fd);
  Result<> set_vring_call(std::uint32_t queue, std::optional<int> fd);
  Result<> set_vring_err(std::uint32_t queue, std::optional<int> fd);
  Result<> set_vring_enable(std::uint32_t queue, bool enabled);

  // For tests of invalid messages.

  /// Sends any message. Waits for the acknowledgement, if that was negotiated.
  Result<> send_message(std::uint32_t request, std::span<const std::byte> payload = {},
                        std::span<const int> descriptors = {});
  /// Sends any message. Waits for its reply.
  Result<> send_and_receive(std::uint32_t request, std::span<const std::byte> payload,
                            std::span<const int> descriptors, Message& reply);

  [[nodiscard]] MessageSocket& socket() noexcept { return socket_; }
  [[nodiscard]] const Negotiated& negotiated() const noexcept { return negotiated_; }

 private:
  Frontend(MessageSocket socket, Options options) noexcept
      : socket_(std::move(socket)), options_(options) {}

  Result<std::uint64_t> get_number(FrontendRequest request);
  Result<> set_number(FrontendRequest request, std::uint64_t number);
  Result<> send_vring_state(FrontendRequest request, std::uint32_t queue, std::uint32_t number);
  Result<> send_fd(FrontendRequest request, std::uint32_t queue, std::optional<int> fd);
  Result<> receive_reply(std::uint32_t request, Deadline deadline, Message& reply);
  [[nodiscard]] Deadline deadline() const { return Deadline::clock::now() + options_.deadline; }

  MessageSocket socket_;
  Options options_;
  Negotiated negotiated_;
};

}  // namespace guestio::vhost
