// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/wire/received_message.h"

/// vhost-user messages over the control thread's ring: what MessageSocket does for a thread that
/// may block. A front-end that stops in the middle of a message makes only its own session wait.
namespace guestio::vhost {

/// Receives one message whole; what `message` held before goes away, unless it is the first part of
/// this one (Message::received). Errors: closed, peer fault (what came is no message), host,
/// cancelled (`token` was stopped: nothing of what came is lost, another call goes on with it).
task::Task<Result<>> receive_message(uring::Loop& loop, int socket, Message& message,
                                     task::StopToken token = {});

/// Sends the reply to `request`, with a descriptor beside it unless that is -1. Errors: closed,
/// host.
task::Task<Result<>> send_reply(uring::Loop& loop, int socket, std::uint32_t request,
                                std::span<const std::byte> payload, int descriptor = -1);

/// Sends a request of the backend's own over the socket of SET_BACKEND_REQ_FD. Errors: closed,
/// host, cancelled (`token` was stopped before anything was sent).
enum class Acknowledgement : bool { kNone, kWanted };
task::Task<Result<>> send_request(uring::Loop& loop, int socket, BackendRequest request,
                                  Acknowledgement acknowledgement,
                                  std::span<const std::byte> payload, task::StopToken token = {});

}  // namespace guestio::vhost
