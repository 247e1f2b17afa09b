// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/disk/nbd/loop_event.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// A connection that was given up while its socket was open.
struct NbdUnfinished {
  UniqueFd socket;              ///< empty: nothing of the connection is left
  std::vector<std::byte> rest;  ///< of a request that was sent in part, and a disconnect
  bool has_changes = false;     ///< the server may still perform changes that were in flight
};

/// Ends a connection that was given up between two requests: sends the rest of the last one and a
/// disconnect, ends its direction of the socket, and discards replies until the server has closed
/// the other. A connection that ends within a request costs some servers more than itself: nbdkit
/// 1.32 stops with a failed assertion if it is sending another reply then.
///
/// 1. A bounded number of bytes is discarded. The rest of a server that sends without end stays in
/// the socket.
///
/// Threads: the loop's. Lifetime: the loop outlives it. The destructor closes the socket.
class NbdFarewell {
 public:
  /// `on_closed`: the server has closed the connection. May destroy this object.
  NbdFarewell(uring::Loop& loop, NbdUnfinished unfinished,
              std::move_only_function<void()> on_closed);

 private:
  static constexpr std::size_t kMaxLateBytes = std::size_t{256} << 20;
  static constexpr int kMaxReceivesPerTurn = 16;

  void send();
  void receive();
  /// Whether the socket has ended.
  bool discard();
  void wait_for_end();

  const UniqueFd socket_;
  const std::vector<std::byte> rest_;
  std::move_only_function<void()> on_closed_;
  std::span<const std::byte> unsent_;
  std::size_t late_bytes_ = 0;
  LoopEvent writable_;
  LoopEvent readable_;
};

}  // namespace guestio::disk
