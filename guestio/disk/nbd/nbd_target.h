// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>

#include "guestio/base/units.h"
#include "guestio/disk/registry.h"

namespace guestio::disk {

/// Which export of which NBD server, and how to reach it. The URI and the settings of a disk:
///
///     nbd://HOST[:PORT]/EXPORT           TCP; port 10809 by default
///     nbd+unix:///EXPORT?socket=PATH     Unix socket
///     nbds://…  nbds+unix://…            with TLS
///
/// `nbds://USER@HOST` and the query parameters tls-psk-file, tls-certificates and tls-username say
/// the same as the settings of these names.
struct NbdTarget {
  std::string host;         ///< of a TCP server: a name or an address
  std::string port;         ///< of a TCP server: digits
  std::string socket_path;  ///< of a Unix socket; else empty
  std::string export_name;  ///< empty: the server's default export
  bool uses_tls = false;
  std::string tls_psk_file;
  std::string tls_certificates;  ///< folder with ca-cert.pem
  std::string tls_username;
  std::string tls_hostname;  ///< in the server's certificate; empty: `host`
  /// Limit of each connection attempt, and of a connection without a reply.
  std::chrono::milliseconds io_timeout{std::chrono::seconds(30)};
  /// Of the UnflushedWrites; 0: the server is trusted to keep what it acknowledged.
  ByteCount unflushed_limit{std::uint64_t{16} << 20};

  [[nodiscard]] bool is_unix() const noexcept { return !socket_path.empty(); }
  /// Without user name and settings, for log lines and error messages.
  [[nodiscard]] std::string to_string() const;
};

/// Errors: invalid argument (the URI; a setting, unknown or misplaced), unsupported (by this
/// libnbd).
[[nodiscard]] OpenResult<NbdTarget> parse_nbd_target(const OpenOptions& options);

}  // namespace guestio::disk
