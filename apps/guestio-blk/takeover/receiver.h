// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <expected>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/guestio-blk/control/control_socket.h"
#include "apps/guestio-blk/disk_start.h"
#include "apps/guestio-blk/options/options.h"
#include "apps/guestio-blk/served_disk.h"
#include "apps/guestio-blk/takeover/json_fields.h"
#include "apps/guestio-blk/takeover/message.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/unix_listener.h"
#include "guestio/task/task.h"

namespace guestio::app {

/// The new process of a takeover (--takeover): the peer of TakeoverSender, which draws the
/// exchange. Received data is checked as untrusted, and each wait has a limit. Errors are one line
/// for the operator; the other process resumes then.
///
/// Threads: the control thread.
class TakeoverReceiver {
 public:
  /// Connects and receives disks and options. `as_given`: the command line. The status of an error
  /// is kExitUsage if nobody listens at the socket, else kExitFailure.
  static std::expected<TakeoverReceiver, EarlyExit> connect(const Options& as_given);

  /// The disks of the other process, and its options where the command line has none.
  [[nodiscard]] const Options& options() const noexcept { return options_; }
  /// The disks: open images first, then the failed disks of the other process. Once.
  [[nodiscard]] std::vector<StartingDisk> take_disks();
  /// Gives the disks their sockets, front-ends and stopped rings, and makes the control socket. On
  /// success this process owns them.
  std::expected<void, std::string> finish(std::span<const std::unique_ptr<ServedDisk>> disks,
                                          std::unique_ptr<ControlSocket>& control);
  /// Starts the rings.
  task::Task<> start(std::span<const std::unique_ptr<ServedDisk>> disks);

 private:
  /// A listening socket. Its path belongs to the other process until finish().
  struct Socket {
    UniqueFd fd;
    UnixListener::BoundPath place;
  };

  static Socket read_socket(JsonFields fields);
  TakeoverReceiver(Options as_given, UniqueFd socket) noexcept
      : options_(std::move(as_given)), socket_(std::move(socket)) {}

  std::expected<void, std::string> receive_description();
  std::expected<void, std::string> read_description(TakeoverMessage message);
  std::expected<void, std::string> read_failed(const nlohmann::json& json,
                                               std::span<UniqueFd> descriptors);
  std::expected<void, std::string> read_disk(const nlohmann::json& json,
                                             std::span<UniqueFd> descriptors);
  std::expected<void, std::string> read_sessions(
      TakeoverMessage message, std::span<const std::unique_ptr<ServedDisk>> disks);
  std::expected<TakeoverMessage, std::string> receive(const char* key, std::chrono::seconds limit);
  std::expected<void, std::string> send(const char* what);

  Options options_;
  UniqueFd socket_;
  std::uint64_t sender_pid_ = 0;                     // of the other process
  std::vector<std::shared_ptr<disk::Disk>> opened_;  // of the first options_.disks
  std::vector<std::string> causes_;                  // of the other, failed disks
  std::vector<std::optional<Socket>> sockets_;       // optional, by disk
  std::optional<Socket> control_;
  std::chrono::steady_clock::time_point quiesced_at_;  // begin of the pause in I/O
  std::chrono::steady_clock::time_point owned_since_;  // after the handover
};

}  // namespace guestio::app
