// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <expected>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "control/commands.h"
#include "control/control_socket.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "takeover/message.h"

namespace guestio::app {

/// What two processes have to agree on when one takes the other's place.
inline constexpr std::uint64_t kTakeoverVersion = 1;
/// Of an answer that has failed disks: a process of a build that would drop them refuses it.
inline constexpr std::uint64_t kTakeoverVersionWithFailed = 2;

/// The end of a process whose place another one takes (--takeover), over a connection to its
/// control socket:
///
///     the new one                                 this one
///     {"command":"takeover","version":1}  ──►
///                                         ◄──     disks, options, images, listening sockets
///     opens all that, while                       this one serves on
///     {"ready":true}                      ──►     sessions rest, rings stop
///                                         ◄──     {"disks":[sessions ...]}
///     maps and checks it
///     {"prepared":true}                   ──►
///                                         ◄──     {"yours":true}: from here on it is the other's
///     starts the rings                            ends
///
/// Whatever goes wrong before the last line, this process goes on where it was. Nobody can hold it
/// up for long: each wait has a limit.
///
/// Threads: the control thread.
class TakeoverSender {
 public:
  /// `resumed` is called when a pause has ended without the other process taking over.
  TakeoverSender(uring::Loop& loop, const ServerContext& context, ControlSocket* control,
                 std::function<void()> resumed) noexcept
      : loop_(loop), context_(context), control_(control), resumed_(std::move(resumed)) {}

  /// The whole conversation. Does not return when the other process has taken over: this one has
  /// ended then.
  task::Task<> hand_over(nlohmann::json command, int socket, task::StopToken stop);
  /// Whether another process has begun to take over: what was told to it must not change.
  [[nodiscard]] bool is_under_way() const noexcept { return is_under_way_; }
  /// Whether sessions rest: nothing may touch them.
  [[nodiscard]] bool is_quiescing() const noexcept { return is_quiescing_; }

 private:
  using Outcome = std::expected<void, std::string>;

  task::Task<Outcome> prepare(int socket, task::StopToken stop);
  task::Task<Outcome> transfer(int socket);
  task::Task<Outcome> park();
  task::Task<> park_disk(ServedDisk& disk, task::StopToken limit, task::StopToken final_limit,
                         std::string& late);
  task::Task<Outcome> quiesce();
  task::Task<> quiesce_disk(ServedDisk& disk, task::StopToken limit, std::string& obstacle);
  task::Task<> freeze();
  task::Task<> freeze_disk(ServedDisk& disk);
  task::Task<Outcome> send_sessions(int socket);
  task::Task<> resume();
  task::Task<> resume_disk(ServedDisk& disk);
  std::expected<TakeoverMessage, std::string> describe() const;
  std::expected<TakeoverMessage, std::string> describe_sessions() const;

  uring::Loop& loop_;
  const ServerContext& context_;
  ControlSocket* const control_;
  const std::function<void()> resumed_;
  std::chrono::steady_clock::time_point quiesced_at_;  // the guests' I/O stands still
  bool is_under_way_ = false;
  bool is_quiescing_ = false;
};

}  // namespace guestio::app
