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

void BackendChannel::set_suspended(bool is_suspended) noexcept {
  is_suspended_ = is_suspended;
  if (!is_suspended_ && has_config_changed_) news_.set();
}

task::Task<> BackendChannel::talk() {
  const task::StopToken stop = conversation_->stop.token();
  while (!stop.stop_requested()) {
    if (!has_config_changed_ || is_suspended_) {
      news_.reset();
      (void)co_await news_.wait(stop);
      continue;
    }
    has_config_changed_ = false;
    auto saying = say(BackendRequest::kConfigChangeMsg);
    const auto said = co_await std::move(saying);
    if (said || stop.stop_requested()) continue;
    log::limited_warning(peer_fault_log(), "the front-end does not hear of a change: {}",
                         said.error().to_string());
    // Whatever comes next would be read as something else.
    if (said.error().kind != ErrorKind::kUnsupported) co_return;
  }
}

/// Errors also: unsupported, when the front-end refuses.
task::Task<Result<>> BackendChannel::say(BackendRequest request) {
  const int socket = conversation_->socket.get();
  auto sending = send_request(home_, socket, request, conversation_->acknowledgement, {});
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
