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
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/socket.h"

/// The front-end's end of a vhost-user connection, for programs that load or test a backend.
namespace guestio::vhost {

/// One function for each message that a front-end sends, each of which blocks until the message is
/// out and its answer, if it has one, is in. With kProtocolReplyAck negotiated every message that
/// has no answer of its own asks for one, and a refusal is an error of ours.
///
/// Errors of every function: closed, host with ETIMEDOUT (the backend took longer than the time
/// limit), peer fault (a wrong answer, or a refusal: its value is what the backend answered). The
/// connection is of no use after anything but a refusal.
///
/// Threads: one at a time.
class Frontend {
 public:
  struct Options {
    std::chrono::milliseconds deadline = std::chrono::seconds(10);  ///< for one message
  };

  /// One region of the table that set_mem_table() sends.
  struct Region {
    MemoryRegion where;
    int fd;
  };

  /// What both sides can do.
  struct Negotiated {
    std::uint64_t offered_features = 0;  ///< virtio features, kFeatureProtocolFeatures included
    ProtocolBits offered_protocol = 0;
    std::uint64_t features = 0;
    ProtocolBits protocol = 0;
    std::uint64_t queues = 1;  ///< the most that the backend has
  };

  static Result<Frontend> connect(const std::string& path, Options options);
  /// On a socket that is connected already.
  static Frontend from_socket(UniqueFd fd, Options options) {
    return Frontend(MessageSocket(std::move(fd)), options);
  }

  /// Opens a session as QEMU does: owner, features, protocol features, number of queues. What is
  /// not offered is left out of what is wanted.
  Result<Negotiated> negotiate(std::uint64_t wanted_features, ProtocolBits wanted_protocol);

  Result<> set_owner();
  Result<> reset_owner();
  Result<std::uint64_t> get_features();
  Result<> set_features(std::uint64_t features);
  Result<ProtocolBits> get_protocol_features();
  Result<> set_protocol_features(ProtocolBits features);
  Result<std::uint64_t> get_queue_num();

  /// Reads [offset, offset + to.size()) of the configuration space. Errors also: unsupported when
  /// the backend has no such bytes. Requires: to.size() <= kMaxConfig.
  Result<> get_config(std::uint32_t offset, std::span<std::byte> to);
  Result<> set_config(std::uint32_t offset, std::span<const std::byte> from, std::uint32_t flags);

  /// Requires: at most kMaxRegions.
  Result<> set_mem_table(std::span<const Region> regions);

  Result<> set_vring_num(std::uint32_t queue, std::uint32_t size);
  Result<> set_vring_base(std::uint32_t queue, std::uint32_t base);
  /// Stops the queue; returns where it stopped.
  Result<std::uint32_t> get_vring_base(std::uint32_t queue);
  Result<> set_vring_addr(const VringAddress& address);
  /// A file to keep what is in flight in, and to hand back with set_inflight().
  struct Inflight {
    InflightDescription where{};
    UniqueFd file;
  };
  /// Asks for memory that is large enough for the queues. Requires: kProtocolInflightShmfd.
  Result<Inflight> get_inflight(std::uint16_t queues, std::uint16_t queue_size);
  Result<> set_inflight(const Inflight& inflight);

  /// Hands over a socket for the backend's own requests. Requires: kProtocolBackendReq.
  Result<> set_backend_req_fd(int socket);
  /// Hands over the bitmap of dirty pages. Requires: kProtocolLogShmfd.
  Result<> set_log_base(const LogDescription& where, int file);
  /// An eventfd that the backend signals when it has set bits.
  Result<> set_log_fd(int event);
  // Of the virtio device. Requires: kProtocolStatus.
  Result<> set_status(std::uint8_t status);
  Result<std::uint64_t> get_status();
  /// Requires: kProtocolResetDevice.
  Result<> reset_device();

  // Nothing for `fd` says that there is none.
  Result<> set_vring_kick(std::uint32_t queue, std::optional<int> fd);
  Result<> set_vring_call(std::uint32_t queue, std::optional<int> fd);
  Result<> set_vring_err(std::uint32_t queue, std::optional<int> fd);
  Result<> set_vring_enable(std::uint32_t queue, bool enabled);

  // For tests that send what no well-behaved front-end would.

  /// Sends any message; waits for the acknowledgement if that was negotiated.
  Result<> send_message(std::uint32_t request, std::span<const std::byte> payload = {},
                        std::span<const int> descriptors = {});
  /// Sends any message and waits for its answer.
  Result<> send_and_receive(std::uint32_t request, std::span<const std::byte> payload,
                            std::span<const int> descriptors, Message& answer);

  [[nodiscard]] MessageSocket& socket() noexcept { return socket_; }
  [[nodiscard]] const Negotiated& negotiated() const noexcept { return negotiated_; }

 private:
  Frontend(MessageSocket socket, Options options) noexcept
      : socket_(std::move(socket)), options_(options) {}

  Result<std::uint64_t> ask_number(FrontendRequest request);
  Result<> tell_number(FrontendRequest request, std::uint64_t number);
  Result<> report_state(FrontendRequest request, std::uint32_t queue, std::uint32_t number);
  Result<> tell_fd(FrontendRequest request, std::uint32_t queue, std::optional<int> fd);
  Result<> receive_answer(std::uint32_t request, Deadline deadline, Message& answer);
  [[nodiscard]] Deadline deadline() const { return Deadline::clock::now() + options_.deadline; }

  MessageSocket socket_;
  Options options_;
  Negotiated negotiated_;
};

}  // namespace guestio::vhost
