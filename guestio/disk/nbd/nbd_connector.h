// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "guestio/base/error.h"
#include "guestio/disk/nbd/nbd_export.h"
#include "guestio/disk/nbd/nbd_handle.h"
#include "guestio/disk/nbd/nbd_target.h"

namespace guestio::disk {

/// A negotiated connection.
struct NbdOpened {
  NbdHandle handle;
  NbdExport facts;
};
using NbdAttempt = std::expected<NbdOpened, NbdConnectFailure>;

/// Connects to a server on a thread of its own: name resolution blocks, and a handshake with TLS
/// costs milliseconds.
///
/// 1. `on_attempt` gets the result of each attempt on that thread, and none after the destructor.
/// It says whether to make another one, after a pause that doubles from 10 ms to 1 s. While nobody
/// listens, pauses are at most 20 ms at a Unix socket and 40 ms at a port.
/// 2. The destructor ends a running attempt. It never waits for name resolution: the thread then
/// ends by itself.
///
/// Threads: constructor and destructor from any.
class NbdConnector {
 public:
  enum class Verdict : bool { kDone, kRetry };
  using OnAttempt = std::move_only_function<Verdict(NbdAttempt attempt)>;

  /// Errors: host (no thread, no descriptor).
  static Result<std::unique_ptr<NbdConnector>> start(NbdTarget target, OnAttempt on_attempt);
  NbdConnector(const NbdConnector&) = delete;
  NbdConnector& operator=(const NbdConnector&) = delete;
  ~NbdConnector();

 private:
  struct Shared;

  NbdConnector() = default;
  static void run(Shared& shared);

  std::shared_ptr<Shared> shared_;
  std::jthread thread_;
};

/// One attempt, within `target.io_timeout` including name resolution. Blocks.
[[nodiscard]] NbdAttempt connect_to_nbd_server(const NbdTarget& target);

}  // namespace guestio::disk
