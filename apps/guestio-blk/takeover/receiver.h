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

#include "control/control_socket.h"
#include "disk_start.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/unix_listener.h"
#include "guestio/task/task.h"
#include "options/options.h"
#include "served_disk.h"
#include "takeover/json_fields.h"
#include "takeover/message.h"

namespace guestio::app {

/// The beginning of a process that takes another one's place (--takeover): the other end of
/// TakeoverSender, which shows the conversation. What comes is checked as if a stranger had sent
/// it; each wait has a limit. Errors are one line for a person: the other process goes on then.
///
/// Threads: the control thread.
class TakeoverReceiver {
 public:
  /// Connects, and hears of disks and options. `said` is what the command line says. The error's
  /// status is kExitUsage when there is nobody to connect to, else kExitFailure.
  static std::expected<TakeoverReceiver, EarlyExit> connect(const Options& as_given);

  /// What to serve: the other's disks, and its other options where the command line says nothing.
  [[nodiscard]] const Options& options() const noexcept { return options_; }
  /// Those disks: images that are open, and then what the other process could not serve. Once.
  [[nodiscard]] std::vector<StartingDisk> take_disks();
  /// Gives the disks their sockets, front-ends and rings, which do not run yet, and makes the
  /// control socket. When it returns all of that is this process's.
  std::expected<void, std::string> finish(std::span<const std::unique_ptr<ServedDisk>> disks,
                                          std::unique_ptr<ControlSocket>& control);
  /// Starts the rings.
  task::Task<> start(std::span<const std::unique_ptr<ServedDisk>> disks);

 private:
  /// A listening socket that is the other's until the end: its path is not ours to remove.
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
  std::uint64_t sender_pid_ = 0;                     // its process
  std::vector<std::shared_ptr<disk::Disk>> opened_;  // of the first of the options' disks
  std::vector<std::string> causes_;                  // of the others, which have failed
  std::vector<std::optional<Socket>> sockets_;       // of disks that have one
  std::optional<Socket> control_;
  std::chrono::steady_clock::time_point quiesced_at_;  // the guests' I/O stands still
  std::chrono::steady_clock::time_point owned_since_;  // all of it
};

}  // namespace guestio::app
