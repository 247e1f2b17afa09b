// SPDX-License-Identifier: MIT
#include "guestio/vhost/backend_channel.h"

#include <sys/socket.h>

#include <utility>

#include "guestio/base/check.h"
#include "guestio/vhost/peer_log.h"

namespace guestio::vhost {

void BackendChannel::open(UniqueFd socket, Acknowledgement acknowledgement) {
  GUESTIO_CHECK(!is_open(), "one conversation at a time");
  conversation_.emplace(std::move(socket), acknowledgement);
  talking_.spawn(talk());
}

task::Task<> BackendChannel::close() {
  if (!is_open()) co_return;
  conversation_->stop.request_stop();
  // Ends what is being sent or waited for.
  ::shutdown(conversation_->socket.get(), SHUT_RDWR);
  co_await talking_.join();
  conversation_.reset();
  has_config_changed_ = false;
}

void BackendChannel::tell_config_changed() noexcept {
  if (!is_of_use()) return;
  has_config_changed_ = true;
  news_.set();
}

void BackendChannel::tell_called(std::uint16_t ring) noexcept {
  called_.set(ring);
  news_.set();
}

void BackendChannel::tell_broken(std::uint16_t ring) noexcept {
  broken_.set(ring);
  news_.set();
}

void BackendChannel::set_suspended(bool is_suspended) noexcept {
  is_suspended_ = is_suspended;
  if (has_news()) news_.set();
}

task::Task<> BackendChannel::talk() {
  const task::StopToken stop = conversation_->stop.token();
  while (!stop.stop_requested()) {
    if (!has_news()) {
      news_.reset();
      (void)co_await news_.wait(stop);
      continue;
    }
    auto saying = say_next();
    const auto said = co_await std::move(saying);
    if (said || stop.stop_requested()) continue;
    log::limited_warning(peer_fault_log(), "the front-end does not hear what we tell it: {}",
                         said.error().to_string());
    // Whatever comes next would be read as something else.
    if (said.error().kind != ErrorKind::kUnsupported) co_return;
  }
}

/// Requires: has_news().
task::Task<Result<>> BackendChannel::say_next() {
  if (std::exchange(has_config_changed_, false)) {
    auto saying = say(BackendRequest::kConfigChangeMsg, {});
    co_return co_await std::move(saying);
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
  co_return co_await std::move(saying);
}

/// Errors also: unsupported, when the front-end refuses.
task::Task<Result<>> BackendChannel::say(BackendRequest request,
                                         std::span<const std::byte> payload) {
  const int socket = conversation_->socket.get();
  auto sending = send_request(home_, socket, request, conversation_->acknowledgement, payload);
  const auto sent = co_await std::move(sending);
  if (!sent || conversation_->acknowledgement == Acknowledgement::kNone) co_return sent;
  auto receiving = receive_message(home_, socket, answer_);
  const auto received = co_await std::move(receiving);
  if (!received) co_return received;
  answer_.descriptors.clear();
  const auto code = answer_.as<std::uint64_t>();
  if (answer_.header.request != std::to_underlying(request) || !code) {
    co_return fail(Error::peer_fault("an answer to ours", answer_.header.request));
  }
  if (*code != 0) co_return fail(ErrorKind::kUnsupported, "a front-end that takes it", *code);
  co_return Result<>();
}

}  // namespace guestio::vhost
