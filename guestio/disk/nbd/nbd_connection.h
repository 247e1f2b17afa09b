// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/disk/nbd/nbd_farewell.h"
#include "guestio/disk/nbd/nbd_handle.h"
#include "guestio/disk/remote/remote_command.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// One connection in the transmission phase, driven by a loop.
///
/// 1. Each command completes once: with the server's reply, or with kClosed at the end of the
/// connection.
/// 2. After the end of the connection nothing is in flight, and on_connection_lost() follows once.
///
/// Threads: the loop's. Lifetime: nothing is in flight at destruction (abandon() first).
class NbdConnection {
 public:
  class Owner {
   public:
    /// The connection has ended: `cause`. Destroys it. `unfinished`: what is left of it, if we
    /// ended it while changes were in flight; else empty.
    virtual void on_connection_lost(std::string cause, NbdUnfinished unfinished) = 0;

   protected:
    ~Owner() = default;
  };

  /// libnbd negotiates. The transmission phase of a plain socket is then PlainConnection's, and
  /// that of TLS libnbd's. Errors: host.
  static Result<std::unique_ptr<NbdConnection>> create(uring::Loop& loop, NbdHandle handle,
                                                       Owner& owner);
  NbdConnection(const NbdConnection&) = delete;
  NbdConnection& operator=(const NbdConnection&) = delete;
  virtual ~NbdConnection() = default;

  virtual void submit(RemoteCommand& command) noexcept = 0;
  [[nodiscard]] virtual std::size_t in_flight() const noexcept = 0;
  /// Ends the connection without a word to the server, and fails what is in flight with kClosed.
  /// Returns what is left of it; empty if it was closed before. No on_connection_lost() follows.
  virtual NbdUnfinished abandon() = 0;
  /// Grows with each reply.
  [[nodiscard]] std::uint64_t replies() const noexcept { return replies_; }

 protected:
  explicit NbdConnection(Owner& owner) noexcept : owner_(owner) {}
  [[nodiscard]] Owner& owner() noexcept { return owner_; }
  void count_reply() noexcept { ++replies_; }

 private:
  Owner& owner_;
  std::uint64_t replies_ = 0;
};

/// The result of a command with the errno of its reply; 0: success.
[[nodiscard]] Result<> nbd_result(IoKind kind, int error) noexcept;
/// Whether a command changes the export.
[[nodiscard]] inline bool is_nbd_change(IoKind kind) noexcept {
  return kind != IoKind::kRead && kind != IoKind::kFlush;
}

}  // namespace guestio::disk
