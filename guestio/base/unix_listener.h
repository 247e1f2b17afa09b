// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio {

/// Permissions of a socket file. On Linux a client needs write permission to connect.
struct SocketAccess {
  mode_t mode = 0660;          ///< exactly, independent of the umask
  std::optional<uid_t> owner;  ///< default: the process's
  std::optional<gid_t> group;  ///< default: the process's
};

/// A listening unix stream socket at a path. Its destructor removes the path.
///
/// An existing path is replaced only if it is a stale socket without a listener. The path becomes
/// visible after listen(), so every client that finds it can connect. The socket listens after
/// mode, owner and group are set: earlier connections are refused.
class UnixListener {
 public:
  /// Errors: too large (the path), busy (a live listener), unsupported (the path is no socket),
  /// host (for example no permission to change owner or group). The path is then unchanged.
  static Result<UnixListener> listen_at(const std::string& path, const SocketAccess& access = {});
  /// Adopts a listening socket, inherited from the parent process.
  static UnixListener adopt(UniqueFd socket) noexcept {
    return UnixListener(std::move(socket), {}, {});
  }

  /// The path of a listener and the identity of its socket file.
  struct BoundPath {
    std::string path;  ///< absolute; empty if the listener does not own it
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
  };
  /// Takes over the socket of an ending process, with the ownership of its path.
  static UnixListener adopt(UniqueFd socket, BoundPath bound_path);
  [[nodiscard]] BoundPath bound_path() const;
  /// Makes this process the one that SO_PEERCRED reports to clients, after a takeover.
  void announce_owner() const noexcept;

  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  /// Removes the path if it still names this socket. The destructor does the same. Once.
  void remove() noexcept;

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }

 private:
  /// The socket file that was created: another process's file is never removed.
  struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    friend bool operator==(const Identity&, const Identity&) = default;
  };

  UnixListener(UniqueFd socket, std::string path, Identity identity) noexcept
      : socket_(std::move(socket)), path_(std::move(path)), identity_(identity) {}
  static Result<Identity> identify(const std::string& path);

  UniqueFd socket_;
  std::string path_;  // empty if not owned
  Identity identity_;
};

}  // namespace guestio
