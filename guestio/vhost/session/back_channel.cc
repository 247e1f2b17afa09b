// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/back_channel.h"

#include <sys/socket.h>

#include <utility>

#include "guestio/base/check.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

void BackChannel::open(UniqueFd socket, Acknowledgement acknowledgement) {
  GUESTIO_CHECK(!is_open(), "a closed back channel");
  connection_.emplace(std::move(socket), acknowledgement);
  acknowledgement_.received = 0;
  running_.spawn(run());
}

task::Task<> BackChannel::close() {
  if (!is_open()) co_return;
  connection_->stop->request_stop();
  // Ends a send or receive in progress.
  ::shutdown(connection_->socket.get(), SHUT_RDWR);
  co_await running_.join();
  connection_.reset();
  is_config_change_pending_ = false;
}

task::Task<> BackChannel::freeze() {
  if (!is_open()) co_return;
  connection_->stop->request_stop();
  co_await running_.join();
}

void BackChannel::resume() {
  if (!is_open() || running_.running() != 0) return;
  connection_->stop = std::make_unique<task::StopSource>();
  if (!connection_->is_violated) running_.spawn(run());
}

Result<std::optional<BackChannelState>> BackChannel::snapshot() const {
  if (!is_open()) return std::nullopt;
  auto socket = duplicate_fd(connection_->socket.get());
  if (!socket) return fail(socket.error());
  const auto awaited = connection_->awaited_request;
  auto partial = awaited ? PartialMessage::copy_of(acknowledgement_) : PartialMessage();
  if (!partial) return fail(partial.error());
  BackChannelState state{
      .socket = std::move(*socket),
      .wants_acknowledgement = connection_->acknowledgement == Acknowledgement::kWanted,
      .is_usable = !connection_->is_violated,
      .is_config_change_pending = is_config_change_pending_,
      .awaits_acknowledgement = awaited.has_value(),
      .awaited_request = awaited ? std::to_underlying(*awaited) : 0,
      .partial_acknowledgement = std::move(*partial)};
  for (std::size_t i = 0; i < pending_errors_.size(); ++i) {
    if (pending_errors_.test(i)) state.pending_errors.push_back(static_cast<std::uint16_t>(i));
  }
  return state;
}

Result<> BackChannel::restore(BackChannelState state) {
  GUESTIO_CHECK(!is_open(), "a closed back channel");
  if (!is_stream_socket(state.socket.get())) {
    return fail(Error::peer_fault("back channel is not a connected stream socket"));
  }
  for (const std::uint16_t ring : state.pending_errors) {
    if (ring >= pending_errors_.size()) {
      return fail(Error::peer_fault("pending VRING_ERR for a ring index out of range", ring));
    }
    pending_errors_.set(ring);
  }
  acknowledgement_.received = 0;
  auto moved = std::move(state.partial_acknowledgement).move_to(acknowledgement_);
  if (!moved) return moved;
  connection_.emplace(std::move(state.socket), state.wants_acknowledgement
                                                   ? Acknowledgement::kWanted
                                                   : Acknowledgement::kNone);
  connection_->is_violated = !state.is_usable;
  if (state.awaits_acknowledgement) {
    connection_->awaited_request = static_cast<BackendRequest>(state.awaited_request);
  }
  is_config_change_pending_ = state.is_config_change_pending;
  return {};
}

void BackChannel::notify_config_changed() noexcept {
  if (!is_usable()) return;
  is_config_change_pending_ = true;
  pending_.set();
}

void BackChannel::signal_call(std::uint16_t ring) noexcept {
  pending_calls_.set(ring);
  pending_.set();
}

void BackChannel::signal_error(std::uint16_t ring) noexcept {
  pending_errors_.set(ring);
  pending_.set();
}

void BackChannel::set_suspended(bool is_suspended) noexcept {
  is_suspended_ = is_suspended;
  if (has_pending()) pending_.set();
}

task::Task<> BackChannel::run() {
  const task::StopToken stop = connection_->stop->token();
  while (!stop.stop_requested()) {
    if (!connection_->awaited_request && !has_pending()) {
      pending_.reset();
      (void)co_await pending_.wait(stop);
      continue;
    }
    auto step = connection_->awaited_request ? receive_acknowledgement() : send_next();
    const auto done = co_await std::move(step);
    if (done || done.error().kind == ErrorKind::kCancelled) continue;
    if (stop.stop_requested() && done.error().kind == ErrorKind::kClosed) continue;
    log::rate_limited_warning(log_->faults, "{}: message to the front-end failed: {}", log_->name,
                              done.error().to_string());
    // After a refusal the stream is intact. After any other error it may be inside a message.
    if (done.error().kind == ErrorKind::kUnsupported) continue;
    connection_->is_violated = true;
    co_return;
  }
}

/// Requires: has_pending().
task::Task<Result<>> BackChannel::send_next() {
  if (std::exchange(is_config_change_pending_, false)) {
    const auto sent = co_await send(BackendRequest::kConfigChangeMsg, {});
    is_config_change_pending_ |= !sent && sent.error().kind == ErrorKind::kCancelled;
    co_return sent;
  }
  // An error takes precedence over calls for other rings.
  RingSet& rings = pending_errors_.any() ? pending_errors_ : pending_calls_;
  const auto request =
      pending_errors_.any() ? BackendRequest::kVringErr : BackendRequest::kVringCall;
  // Round robin: a ring with constant calls does not starve another one.
  do last_ring_ = static_cast<std::uint16_t>((last_ring_ + 1) % kMaxQueues);
  while (!rings.test(last_ring_));
  rings.reset(last_ring_);
  const VringState ring{.index = last_ring_, .num = 0};
  const auto sent = co_await send(request, std::as_bytes(std::span(&ring, 1)));
  if (!sent && sent.error().kind == ErrorKind::kCancelled) rings.set(ring.index);
  co_return sent;
}

/// Errors also: cancelled, when nothing was sent.
task::Task<Result<>> BackChannel::send(BackendRequest request, std::span<const std::byte> payload) {
  const auto sent =
      co_await send_request(home_, connection_->socket.get(), request, connection_->acknowledgement,
                            payload, connection_->stop->token());
  if (sent && connection_->acknowledgement == Acknowledgement::kWanted) {
    connection_->awaited_request = request;
  }
  co_return sent;
}

/// Errors also: unsupported, when the front-end refused the request.
task::Task<Result<>> BackChannel::receive_acknowledgement() {
  const auto received = co_await receive_message(home_, connection_->socket.get(), acknowledgement_,
                                                 connection_->stop->token());
  if (!received) co_return received;
  acknowledgement_.descriptors.clear();
  const auto request = *std::exchange(connection_->awaited_request, std::nullopt);
  const auto code = acknowledgement_.as<std::uint64_t>();
  if (acknowledgement_.header.request != std::to_underlying(request) || !code) {
    co_return fail(Error::peer_fault("back channel message is not the awaited acknowledgement",
                                     acknowledgement_.header.request));
  }
  if (*code != 0) {
    co_return fail(ErrorKind::kUnsupported, "request refused by the front-end", *code);
  }
  co_return Result<>();
}

}  // namespace guestio::vhost
