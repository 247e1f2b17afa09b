// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <expected>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "apps/guestio-blk/control/commands.h"
#include "apps/guestio-blk/control/control_socket.h"
#include "apps/guestio-blk/takeover/message.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::app {

/// Version of the exchange between the two processes of a takeover.
inline constexpr std::uint64_t kTakeoverVersion = 1;
/// Version of a description with failed disks. Builds that would drop them refuse it.
inline constexpr std::uint64_t kTakeoverVersionWithFailed = 2;

/// The old process of a takeover (--takeover), over a connection to its control socket:
///
///     new process                                 this process
///     {"command":"takeover","version":1}  ──►
///                                         ◄──     disks, options, images, listening sockets
///     opens all that, while                       this process serves on
///     {"ready":true}                      ──►     sessions are parked, rings drain
///                                         ◄──     {"disks":[sessions ...]}
///     maps and checks it
///     {"prepared":true}                   ──►
///                                         ◄──     {"yours":true}: the new process is the owner
///     starts the rings                            ends
///
/// On any fault before the last line this process resumes. Each wait has a limit, so nobody can
/// block it for long.
///
/// Threads: the control thread.
class TakeoverSender {
 public:
  /// `resumed` is called after a pause without a takeover.
  TakeoverSender(uring::Loop& loop, const ServerContext& context, ControlSocket* control,
                 std::function<void()> resumed) noexcept
      : loop_(loop), context_(context), control_(control), resumed_(std::move(resumed)) {}

  /// Runs the whole exchange. Returns only without a takeover: otherwise the process ends.
  task::Task<> hand_over(nlohmann::json command, int socket, task::StopToken stop);
  /// A takeover has begun: the description sent must stay true.
  [[nodiscard]] bool is_under_way() const noexcept { return is_under_way_; }
  /// Sessions are parked: nothing may touch them.
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
  std::chrono::steady_clock::time_point quiesced_at_;  // begin of the pause in I/O
  bool is_under_way_ = false;
  bool is_quiescing_ = false;
};

}  // namespace guestio::app
