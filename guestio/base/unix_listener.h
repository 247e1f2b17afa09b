// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio {

/// Who may connect to a socket at a path: on Linux, whoever may write to it.
struct SocketAccess {
  mode_t mode = 0660;          ///< exactly, whatever the umask
  std::optional<uid_t> owner;  ///< or that of the process
  std::optional<gid_t> group;  ///< or that of the process
};

/// A unix stream socket that listens at a path, and takes the path away again when it goes.
///
/// A path that exists is replaced only if it is a socket that nobody listens on. It is made visible
/// only once the socket listens, so whoever finds it can connect. The socket listens only once
/// mode, owner and group are set: before that, connecting is refused to everybody.
class UnixListener {
 public:
  /// Errors: too large (the path), busy (a live listener), unsupported (the path is something
  /// else), host (one is that owner or group may not be given away). Nothing is removed then.
  static Result<UnixListener> listen_at(const std::string& path, const SocketAccess& access = {});
  /// Takes a socket that listens already, handed down by whoever started the process.
  static UnixListener adopt(UniqueFd socket) noexcept {
    return UnixListener(std::move(socket), {}, {});
  }

  /// Where a listener is to be found, and which file that was.
  struct BoundPath {
    std::string path;  ///< absolute; empty when it is not the listener's to remove
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
  };
  /// Takes over the socket of a process that ends, and the task to remove its path.
  static UnixListener adopt(UniqueFd socket, BoundPath bound_path);
  [[nodiscard]] BoundPath bound_path() const;
  /// Says who listens now, for those that ask the socket (check of a path's listener): the other
  /// process has gone.
  void announce_owner() const noexcept;

  UnixListener(UnixListener&& other) noexcept;
  UnixListener& operator=(UnixListener&&) = delete;
  ~UnixListener();

  /// Removes the path, if it still names this socket; what the destructor does. Once.
  void remove() noexcept;

  [[nodiscard]] int fd() const noexcept { return socket_.get(); }

 private:
  /// Which file the path named when it was made: never remove another's.
  struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    friend bool operator==(const Identity&, const Identity&) = default;
  };

  UnixListener(UniqueFd socket, std::string path, Identity identity) noexcept
      : socket_(std::move(socket)), path_(std::move(path)), identity_(identity) {}
  static Result<Identity> identify(const std::string& path);

  UniqueFd socket_;
  std::string path_;  // empty when it is not ours to remove
  Identity identity_;
};

}  // namespace guestio
