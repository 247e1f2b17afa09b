// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/guestio-blk/format/daemon_command.h"
#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

/// A supervised qemu-storage-daemon for one image of another format:
///
///     guestio-blk ──lifeline──▶ supervisor ──starts, restarts──▶ qemu-storage-daemon
///          └───────────────────── NBD, private socket ──────────────────┘
///
/// The supervisor is this program under another name. It holds the listening socket, so that
/// connections wait while the daemon restarts. It ends the daemon when the last process with the
/// other end of the lifeline is gone: a kill -9 leaves no process and no image lock behind, and a
/// takeover hands the lifeline over.
namespace guestio::app {

/// argv[0] of the supervisor.
inline constexpr const char* kFormatSupervisor = "guestio-blk-format";

/// A message of the supervisor, one datagram of the lifeline.
struct SupervisorMessage {
  enum class Kind : char {
    kLog = 'l',        ///< output of the daemon
    kFailed = 'f',     ///< the image cannot be served; the last message
    kRestarted = 'r',  ///< the daemon ended and starts again
    kEnded = 'e',      ///< there is no supervisor any more
  };
  Kind kind;
  std::string text;
};

/// The supervisor's main(): serves until the lifeline ends. Its lifeline is descriptor 3.
int run_format_supervisor(int argc, char** argv);

/// The process's end of a supervisor.
///
/// Threads: one at a time. The destructor lets the supervisor end, unless another process has the
/// lifeline too.
class FormatServer {
 public:
  /// Starts the supervisor; does not wait for its daemon. Errors: host.
  static Result<FormatServer> start(const FormatImage& image);
  /// The same in the folder of an earlier one that has ended: at the same URI.
  static Result<FormatServer> start_in(const std::string& folder, const FormatImage& image);
  /// The supervisor of another process. Errors: invalid argument (no lifeline or folder).
  static Result<FormatServer> adopt(UniqueFd lifeline, std::string folder);

  /// NBD URI of the image.
  [[nodiscard]] std::string uri() const;
  /// The private folder of the NBD socket.
  [[nodiscard]] const std::string& folder() const noexcept { return folder_; }
  [[nodiscard]] const UniqueFd& lifeline() const noexcept { return lifeline_; }
  /// The image is served: from now on the daemon is restarted whatever it ends of.
  void confirm() const;
  /// Ends the supervisor, for all processes with the lifeline, and waits until its daemon has
  /// closed the image; not for ever.
  void end() const;
  /// The next message, if there is one. Never blocks.
  [[nodiscard]] std::optional<SupervisorMessage> receive() const;

 private:
  FormatServer(UniqueFd lifeline, std::string folder)
      : lifeline_(std::move(lifeline)), folder_(std::move(folder)) {}

  UniqueFd lifeline_;
  std::string folder_;
};

}  // namespace guestio::app
