// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/back_channel.h"

#include <sys/socket.h>

#include <utility>

#include "guestio/base/check.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

void BackChannel::open(UniqueFd socket, Acknowledgement acknowledgement) {
  GUESTIO_CHECK(!is_open(), "one conversation at a time");
  conversation_.emplace(std::move(socket), acknowledgement);
  answer_.received = 0;
  talking_.spawn(talk());
}

task::Task<> BackChannel::close() {
  if (!is_open()) co_return;
  conversation_->stop->request_stop();
  // Ends what is being sent or waited for.
  ::shutdown(conversation_->socket.get(), SHUT_RDWR);
  co_await talking_.join();
  conversation_.reset();
  has_config_changed_ = false;
}

task::Task<> BackChannel::freeze() {
  if (!is_open()) co_return;
  conversation_->stop->request_stop();
  co_await talking_.join();
}

void BackChannel::resume() {
  if (!is_open() || talking_.running() != 0) return;
  conversation_->stop = std::make_unique<task::StopSource>();
  if (!conversation_->is_violated) talking_.spawn(talk());
}

Result<std::optional<BackChannelState>> BackChannel::snapshot() const {
  if (!is_open()) return std::nullopt;
  auto socket = duplicate_fd(conversation_->socket.get());
  if (!socket) return fail(socket.error());
  const auto awaited = conversation_->awaits_answer;
  auto answer = awaited ? PartialMessage::copy_of(answer_) : PartialMessage();
  if (!answer) return fail(answer.error());
  BackChannelState state{
      .socket = std::move(*socket),
      .wants_acknowledgement = conversation_->acknowledgement == Acknowledgement::kWanted,
      .is_usable = !conversation_->is_violated,
      .is_config_change_pending = has_config_changed_,
      .awaits_acknowledgement = awaited.has_value(),
      .awaited_request = awaited ? std::to_underlying(*awaited) : 0,
      .partial_acknowledgement = std::move(*answer)};
  for (std::size_t i = 0; i < broken_.size(); ++i) {
    if (broken_.test(i)) state.pending_errors.push_back(static_cast<std::uint16_t>(i));
  }
  return state;
}

Result<> BackChannel::restore(BackChannelState state) {
  GUESTIO_CHECK(!is_open(), "one conversation at a time");
  if (!is_stream_socket(state.socket.get())) {
    return fail(Error::peer_fault("a stream socket for the backend's requests"));
  }
  for (const std::uint16_t ring : state.pending_errors) {
    if (ring >= broken_.size()) return fail(Error::peer_fault("a ring that can be told of", ring));
    broken_.set(ring);
  }
  answer_.received = 0;
  if (auto moved = std::move(state.partial_acknowledgement).move_to(answer_); !moved) return moved;
  conversation_.emplace(std::move(state.socket), state.wants_acknowledgement
                                                     ? Acknowledgement::kWanted
                                                     : Acknowledgement::kNone);
  conversation_->is_violated = !state.is_usable;
  if (state.awaits_acknowledgement) {
    conversation_->awaits_answer = static_cast<BackendRequest>(state.awaited_request);
  }
  has_config_changed_ = state.is_config_change_pending;
  return {};
}

void BackChannel::report_config_changed() noexcept {
  if (!is_usable()) return;
  has_config_changed_ = true;
  news_.set();
}

void BackChannel::tell_called(std::uint16_t ring) noexcept {
  called_.set(ring);
  news_.set();
}

void BackChannel::signal_error(std::uint16_t ring) noexcept {
  broken_.set(ring);
  news_.set();
}

void BackChannel::set_suspended(bool is_suspended) noexcept {
  is_suspended_ = is_suspended;
  if (has_news()) news_.set();
}

task::Task<> BackChannel::talk() {
  const task::StopToken stop = conversation_->stop->token();
  while (!stop.stop_requested()) {
    if (!conversation_->awaits_answer && !has_news()) {
      news_.reset();
      (void)co_await news_.wait(stop);
      continue;
    }
    auto saying = conversation_->awaits_answer ? hear_answer() : send_next();
    const auto said = co_await std::move(saying);
    if (said || said.error().kind == ErrorKind::kCancelled) continue;
    if (stop.stop_requested() && said.error().kind == ErrorKind::kClosed) continue;
    log::rate_limited_warning(log_->faults, "{}: the front-end does not hear what we tell it: {}",
                              log_->name, said.error().to_string());
    // Whatever comes next would be read as something else.
    if (said.error().kind == ErrorKind::kUnsupported) continue;
    conversation_->is_violated = true;
    co_return;
  }
}

/// Requires: has_news().
task::Task<Result<>> BackChannel::send_next() {
  if (std::exchange(has_config_changed_, false)) {
    auto saying = say(BackendRequest::kConfigChangeMsg, {});
    const auto said = co_await std::move(saying);
    has_config_changed_ |= !said && said.error().kind == ErrorKind::kCancelled;
    co_return said;
  }
  // A ring that is broken is news that a call for another one can wait for.
  Rings& rings = broken_.any() ? broken_ : called_;
  const auto request = broken_.any() ? BackendRequest::kVringErr : BackendRequest::kVringCall;
  // Each in its turn: a ring that is called all the time does not keep another one's back.
  do turn_ = static_cast<std::uint16_t>((turn_ + 1) % kMaxQueues);
  while (!rings.test(turn_));
  rings.reset(turn_);
  const VringState ring{.index = turn_, .num = 0};
  auto saying = say(request, std::as_bytes(std::span(&ring, 1)));
  const auto said = co_await std::move(saying);
  if (!said && said.error().kind == ErrorKind::kCancelled) rings.set(ring.index);
  co_return said;
}

/// Errors also: cancelled, when nothing was said.
task::Task<Result<>> BackChannel::say(BackendRequest request, std::span<const std::byte> payload) {
  const int socket = conversation_->socket.get();
  auto sending = send_request(home_, socket, request, conversation_->acknowledgement, payload,
                              conversation_->stop->token());
  const auto sent = co_await std::move(sending);
  if (sent && conversation_->acknowledgement == Acknowledgement::kWanted) {
    conversation_->awaits_answer = request;
  }
  co_return sent;
}

/// Errors also: unsupported, when the front-end refuses.
task::Task<Result<>> BackChannel::hear_answer() {
  auto receiving =
      receive_message(home_, conversation_->socket.get(), answer_, conversation_->stop->token());
  const auto received = co_await std::move(receiving);
  if (!received) co_return received;
  answer_.descriptors.clear();
  const auto asked = *std::exchange(conversation_->awaits_answer, std::nullopt);
  const auto code = answer_.as<std::uint64_t>();
  if (answer_.header.request != std::to_underlying(asked) || !code) {
    co_return fail(Error::peer_fault("an answer to ours", answer_.header.request));
  }
  if (*code != 0) co_return fail(ErrorKind::kUnsupported, "a front-end that takes it", *code);
  co_return Result<>();
}

}  // namespace guestio::vhost
