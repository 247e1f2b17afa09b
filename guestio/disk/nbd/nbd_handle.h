// SPDX-License-Identifier: MIT
#pragma once

#include <libnbd.h>

#include <chrono>
#include <expected>
#include <functional>
#include <memory>
#include <string>

#include "guestio/base/error.h"
#include "guestio/disk/nbd/nbd_target.h"
#include "guestio/disk/registry.h"

namespace guestio::disk {

struct NbdClose {
  void operator()(nbd_handle* handle) const noexcept { ::nbd_close(handle); }
};
/// A libnbd handle. Closing never blocks and completes no command.
/// Threads: one at a time.
using NbdHandle = std::unique_ptr<nbd_handle, NbdClose>;

/// The text of the calling thread's last libnbd error, without the function's name.
[[nodiscard]] std::string last_nbd_error();

/// Why there is no connection.
struct NbdConnectFailure {
  OpenFailure failure;
  bool is_absent = false;  ///< nobody listens at the Unix socket
};

/// Connects and negotiates, up to the transmission phase. Blocks up to `limit`, apart from the
/// resolution of a host name, or until `stop_fd` is readable. `resolve` runs the function that
/// resolves the name and begins to connect. Errors: host, closed, cancelled, peer fault.
[[nodiscard]] std::expected<NbdHandle, NbdConnectFailure> connect_to_nbd_server(
    const NbdTarget& target, int stop_fd, std::chrono::milliseconds limit,
    const std::function<int(const std::function<int()>&)>& resolve);

}  // namespace guestio::disk
