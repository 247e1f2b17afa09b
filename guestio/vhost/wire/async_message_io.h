// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/wire/received_message.h"

/// vhost-user messages as coroutines over an io_uring loop (MessageSocket is the blocking variant).
/// A front-end that stops inside a message delays only its own session.
namespace guestio::vhost {

/// Receives one message. Drops the earlier content of `message`, unless it is the first part of
/// this one (Message::received). Errors: closed, peer fault (malformed message), host, cancelled
/// (`token` was stopped: the received part is kept, and the next call continues with it).
task::Task<Result<>> receive_message(uring::Loop& loop, int socket, Message& message,
                                     task::StopToken token = {});

/// Sends the reply to `request`, with `descriptor` unless that is -1. Errors: closed, host.
task::Task<Result<>> send_reply(uring::Loop& loop, int socket, std::uint32_t request,
                                std::span<const std::byte> payload, int descriptor = -1);

enum class Acknowledgement : bool { kNone, kWanted };

/// Sends a request of the backend over the socket of SET_BACKEND_REQ_FD. Errors: closed, host,
/// cancelled (`token` was stopped before a byte was sent).
task::Task<Result<>> send_request(uring::Loop& loop, int socket, BackendRequest request,
                                  Acknowledgement acknowledgement,
                                  std::span<const std::byte> payload, task::StopToken token = {});

}  // namespace guestio::vhost
