// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/disk/nbd/loop_event.h"
#include "guestio/disk/nbd/nbd_handle.h"
#include "guestio/disk/remote/remote_command.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// One connection in the transmission phase, driven by a loop.
///
///     submit() → nbd_aio_… … readable → nbd_aio_notify_read → replied_ → settle() → complete()
///
/// 1. Each command completes once: with the server's reply, or with kClosed at the end of the
/// connection.
/// 2. libnbd calls back under its lock, so a callback only moves a command to `replied_`.
/// 3. After the end of the connection nothing is in flight, and on_connection_lost() follows once.
///
/// Threads: the loop's. Lifetime: nothing is in flight at destruction (abandon() first).
class NbdConnection final : private uring::Deferred {
 public:
  class Owner {
   public:
    /// The connection has ended: `cause`. May destroy it.
    virtual void on_connection_lost(std::string cause) = 0;

   protected:
    ~Owner() = default;
  };

  NbdConnection(uring::Loop& loop, NbdHandle handle, Owner& owner);
  NbdConnection(const NbdConnection&) = delete;
  NbdConnection& operator=(const NbdConnection&) = delete;
  ~NbdConnection();

  void submit(RemoteCommand& command) noexcept;

  [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_.size(); }
  /// A changing request is in flight: the server may perform it later.
  [[nodiscard]] bool has_changes_in_flight() const noexcept;
  /// Grows with each reply.
  [[nodiscard]] std::uint64_t replies() const noexcept { return replies_; }
  /// Ends the connection without a word to the server, and fails what is in flight with kClosed.
  /// Returns its socket, still open; empty if it was closed before. No on_connection_lost() follows.
  UniqueFd abandon();

 private:
  using Commands = boost::intrusive::list<RemoteCommand>;

  static int on_reply(void* command, int* error) noexcept;
  void run() noexcept override { settle(); }
  /// Returns whether libnbd has taken the command.
  bool issue(RemoteCommand& command) noexcept;
  void on_readable();
  void on_writable();
  /// Completes what has a reply, handles the end of the connection, waits for the socket.
  void settle();
  void wait_for_socket();
  [[nodiscard]] bool has_ended() const noexcept;

  uring::Loop& loop_;
  NbdHandle handle_;
  Owner& owner_;
  Commands in_flight_;
  Commands replied_;
  std::uint64_t replies_ = 0;
  std::size_t replied_bytes_ = 0;  // of the socket, by the present call of libnbd
  std::string cause_;              // of the end, as far as known
  bool is_settling_ = false;
  LoopEvent readable_;
  LoopEvent writable_;
};

}  // namespace guestio::disk
