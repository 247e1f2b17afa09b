// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/session.h"

#include <cerrno>
#include <cstdint>
#include <span>
#include <utility>

#include "guestio/base/log.h"
#include "guestio/vhost/wire/async_message_io.h"
#include "guestio/vhost/wire/message_name.h"

namespace guestio::vhost {

namespace {

/// Requests with a reply, whether or not acknowledgements were negotiated.
bool has_reply(FrontendRequest request, ProtocolBits negotiated) noexcept {
  switch (request) {
    case FrontendRequest::kGetFeatures:
    case FrontendRequest::kGetProtocolFeatures:
    case FrontendRequest::kGetQueueNum:
    case FrontendRequest::kGetVringBase:
    case FrontendRequest::kGetConfig:
    case FrontendRequest::kGetInflightFd:
    case FrontendRequest::kGetMaxMemSlots:
    case FrontendRequest::kGetStatus: return true;
    // Without the feature the message is unknown, and acknowledged as such.
    case FrontendRequest::kSetLogBase: return (negotiated & kProtocolLogShmfd) != 0;
    case FrontendRequest::kPostcopyAdvise:
    case FrontendRequest::kPostcopyEnd: return (negotiated & kProtocolPagefault) != 0;
    default: return false;
  }
}

/// Whether a host failure would leave the front-end with a ring without kicks, calls or marks in
/// the log. Front-ends send these messages without a wish for an acknowledgement, but reconnect
/// after a lost connection. The same holds for a lack of descriptors in this process.
bool requires_disconnect(FrontendRequest request, const Error& error) noexcept {
  const bool is_host = error.kind == ErrorKind::kHost;
  switch (request) {
    case FrontendRequest::kSetVringKick:
    case FrontendRequest::kSetVringCall:
    case FrontendRequest::kSetVringErr:
      // Too large: all threads for pipes are stalled.
      return is_host || error.kind == ErrorKind::kTooLarge;
    // These may start a ring, or have its writes marked.
    case FrontendRequest::kSetFeatures:
    case FrontendRequest::kSetLogFd:
    case FrontendRequest::kSetVringAddr:
    case FrontendRequest::kSetVringNum:
    case FrontendRequest::kSetVringEnable:
    case FrontendRequest::kVringKick: return is_host;
    default: return is_host && (error.host_errno == EMFILE || error.host_errno == ENFILE);
  }
}

}  // namespace

task::Task<> Session::run() {
  if (is_frozen()) co_await resume();
  task::RestPoint& rest = context_.parts.rest;
  while (true) {
    if (rest.is_requested()) {
      co_await rest.rest();
      continue;
    }
    const auto served = co_await serve_message();
    if (served || served.error().kind == ErrorKind::kCancelled) continue;
    log_end(served.error());
    break;
  }
  co_await close();
}

task::Task<> Session::close() {
  // The front-end brings no missing page any more.
  postcopy_.stop();
  // The rings first: a running one may access memory and descriptors.
  for (const auto& ring : context_.rings) co_await ring->reset();
  context_.update_device_use();
  for (const auto& ring : context_.inband) co_await ring->close();
  co_await context_.relay.end();
  co_await context_.back_channel.close();
  context_.memory.reset();
}

void Session::log_end(const Error& cause) const {
  if (cause.kind == ErrorKind::kClosed) return;
  const bool is_ours = cause.kind == ErrorKind::kHost;
  PeerLog& log = *context_.parts.peer_log;
  log::rate_limited_warning(log.faults, "{}: {}connection ends: {}", log.name,
                            is_ours ? "host failure: " : "", cause.to_string());
}

/// Receives, handles and replies to one message. Errors end the connection.
task::Task<Result<>> Session::serve_message() {
  const auto received = co_await receive_message(context_.parts.home, context_.socket.get(),
                                                 context_.message, context_.parts.rest.token());
  if (!received) co_return received;
  const auto request = static_cast<FrontendRequest>(context_.message.header.request);
  const auto outcome = co_await dispatch(request);
  context_.message.descriptors.clear();
  context_.update_device_use();
  if (!outcome) {
    if (requires_disconnect(request, outcome.error())) co_return fail(outcome.error());
    PeerLog& log = *context_.parts.peer_log;
    log::rate_limited_warning(log.faults, "{}: refused {}: {}", log.name,
                              message_name(context_.message.header.request),
                              outcome.error().to_string());
  }
  co_return co_await send_outcome(outcome);
}

task::Task<Result<>> Session::send_outcome(const Result<Reply>& outcome) {
  const MessageHeader& header = context_.message.header;
  const auto request = static_cast<FrontendRequest>(header.request);
  const bool wants_acknowledgement =
      (header.flags & kMessageNeedReply) != 0 && context_.has_feature(kProtocolReplyAck);
  Reply reply = Reply::empty();
  if (outcome && outcome->kind == Reply::Kind::kNever) co_return Result<>();
  if (has_reply(request, context_.protocol_features) ||
      (outcome && outcome->kind == Reply::Kind::kAlways)) {
    // A refusal has no payload, except where the payload is a mere code.
    if (outcome) reply = *outcome;
    if (!outcome && request == FrontendRequest::kSetLogBase) reply = Reply::of(std::uint64_t{1});
  } else if (wants_acknowledgement) {
    reply = Reply::of(std::uint64_t{outcome ? 0U : 1U});
  } else {
    co_return Result<>();
  }
  is_replying_ = true;
  const auto payload = std::span(reply.payload).first(reply.size);
  const auto sent = co_await send_reply(context_.parts.home, context_.socket.get(), header.request,
                                        payload, reply.descriptor);
  is_replying_ = false;
  co_return sent;
}

/// The handler's task; messages without anything to wait for are in handle_sync().
task::Task<Result<Reply>> Session::dispatch(FrontendRequest request) {
  switch (request) {
    case FrontendRequest::kSetFeatures: return device_.handle_set_features();
    case FrontendRequest::kSetStatus: return device_.handle_set_status();
    case FrontendRequest::kResetDevice: return device_.handle_reset_device();
    case FrontendRequest::kSetBackendReqFd: return device_.handle_set_backend_req_fd();
    case FrontendRequest::kSetMemTable: return memory_.handle_set_mem_table();
    case FrontendRequest::kAddMemReg: return memory_.handle_add_mem_reg();
    case FrontendRequest::kRemMemReg: return memory_.handle_rem_mem_reg();
    case FrontendRequest::kSetLogBase: return log_.handle_set_log_base();
    case FrontendRequest::kSetLogFd: return log_.handle_set_log_fd();
    case FrontendRequest::kSetVringNum: return ring_.handle_set_vring_num();
    case FrontendRequest::kSetVringBase: return ring_.handle_set_vring_base();
    case FrontendRequest::kSetVringAddr: return ring_.handle_set_vring_addr();
    case FrontendRequest::kSetVringKick: return ring_.handle_set_vring_kick();
    case FrontendRequest::kSetVringEnable: return ring_.handle_set_vring_enable();
    case FrontendRequest::kVringKick: return ring_.handle_vring_kick();
    case FrontendRequest::kGetVringBase: return ring_.handle_get_vring_base();
    default: return run_sync(request);
  }
}

task::Task<Result<Reply>> Session::run_sync(FrontendRequest request) {
  co_return handle_sync(request);
}

Result<Reply> Session::handle_sync(FrontendRequest request) {
  switch (request) {
    case FrontendRequest::kSetOwner:
    case FrontendRequest::kResetOwner: return Reply::empty();
    case FrontendRequest::kGetFeatures: return device_.handle_get_features();
    case FrontendRequest::kGetProtocolFeatures: return device_.handle_get_protocol_features();
    case FrontendRequest::kSetProtocolFeatures: return device_.handle_set_protocol_features();
    case FrontendRequest::kGetQueueNum: return device_.handle_get_queue_num();
    case FrontendRequest::kGetConfig: return device_.handle_get_config();
    case FrontendRequest::kSetConfig: return device_.handle_set_config();
    case FrontendRequest::kGetStatus: return device_.handle_get_status();
    case FrontendRequest::kGetMaxMemSlots: return memory_.handle_get_max_mem_slots();
    case FrontendRequest::kSetVringCall: return ring_.handle_set_vring_call();
    case FrontendRequest::kSetVringErr: return ring_.handle_set_vring_err();
    case FrontendRequest::kGetInflightFd: return ring_.handle_get_inflight_fd();
    case FrontendRequest::kSetInflightFd: return ring_.handle_set_inflight_fd();
    case FrontendRequest::kPostcopyAdvise: return postcopy_.handle_postcopy_advise();
    case FrontendRequest::kPostcopyListen: return postcopy_.handle_postcopy_listen();
    case FrontendRequest::kPostcopyEnd: return postcopy_.handle_postcopy_end();
    default: return fail(ErrorKind::kUnsupported, "message");
  }
}

}  // namespace guestio::vhost
