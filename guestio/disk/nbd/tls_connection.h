// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

#include "guestio/disk/nbd/loop_event.h"
#include "guestio/disk/nbd/nbd_connection.h"
#include "guestio/disk/nbd/nbd_handle.h"
#include "guestio/disk/remote/remote_command.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// A connection with TLS, which only libnbd can read.
///
///     submit() → nbd_aio_… … readable → nbd_aio_notify_read → replied_ → settle() → complete()
///
/// libnbd calls back under its lock, so a callback only moves a command to `replied_`.
class TlsConnection final : public NbdConnection, private uring::Deferred {
 public:
  TlsConnection(uring::Loop& loop, NbdHandle handle, Owner& owner);
  ~TlsConnection() override;

  void submit(RemoteCommand& command) noexcept override;
  [[nodiscard]] std::size_t in_flight() const noexcept override { return in_flight_.size(); }
  NbdUnfinished abandon() override;

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
  [[nodiscard]] bool has_changes_in_flight() const noexcept;
  [[nodiscard]] bool has_ended() const noexcept;

  uring::Loop& loop_;
  NbdHandle handle_;
  Commands in_flight_;
  Commands replied_;
  std::size_t replied_bytes_ = 0;  // of the socket, by the present call of libnbd
  std::string cause_;              // of the end, as far as known
  bool is_settling_ = false;
  LoopEvent readable_;
  LoopEvent writable_;
};

}  // namespace guestio::disk
