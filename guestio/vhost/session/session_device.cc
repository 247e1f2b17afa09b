// SPDX-License-Identifier: MIT
// A session's messages about the device as a whole: features, status, reset, and the way back to
// the front-end.
#include "guestio/vhost/session/session.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

/// The whole set anew. A ring that runs keeps what it began with, but for logging, which a
/// front-end switches on and off while rings run.
task::Task<Result<Session::Answer>> Session::set_features() {
  const auto features = payload_as<std::uint64_t>();
  if (!features) co_return fail(features.error());
  if ((*features & ~offered_features()) != 0) {
    co_return fail(Error::peer_fault("features that were offered", *features));
  }
  const bool changes_logging = ((features_ ^ *features) & kFeatureLogAll) != 0;
  features_ = *features;
  begin_rings();
  if (changes_logging) {
    auto changing = change_logs();
    const auto changed = co_await std::move(changing);
    if (!changed) co_return fail(changed.error());
  }
  co_return Answer::none();
}

Result<Session::Answer> Session::set_protocol_features() {
  const auto features = payload_as<std::uint64_t>();
  if (!features) return fail(features.error());
  if ((*features & ~offered_protocol_features()) != 0) {
    return fail(Error::peer_fault("protocol features that were offered", *features));
  }
  constexpr ProtocolBits kInbandNeeds = kProtocolBackendReq | kProtocolReplyAck;
  if ((*features & kProtocolInbandNotifications) != 0 &&
      (*features & kInbandNeeds) != kInbandNeeds) {
    return fail(
        Error::peer_fault("in-band notifications with a way back and acknowledgements", *features));
  }
  protocol_features_ = *features;
  return Answer::none();
}

Result<Session::Answer> Session::get_status() const {
  if (auto wanted = require_feature(kProtocolStatus); !wanted) return fail(wanted.error());
  return Answer::of(std::uint64_t{device_status()});
}

/// With what the device itself has to say: a ring has stopped for good, and only a reset makes it
/// work again (virtio 1.2, section 2.1.2).
std::uint8_t Session::device_status() const noexcept {
  return condition_->needs_reset ? status_ | virtio::kStatusNeedsReset : status_;
}

/// Drivers look at the status when the configuration is said to have changed (2.1.2).
void Session::report_needs_reset() noexcept {
  const bool is_watched = (protocol_features_ & kProtocolStatus) != 0 &&
                          (status_ & virtio::kStatusDriverOk) != 0 && condition_->needs_reset;
  if (is_watched) notify_config_changed();
}

/// The driver's steps (virtio 1.2, section 2.1). All of them are the front-end's to judge but one:
/// to write 0 resets the device. Its rings stop, and still tell where they stood: QEMU before 8.1
/// asks for that afterwards.
task::Task<Result<Session::Answer>> Session::set_status() {
  if (auto wanted = require_feature(kProtocolStatus); !wanted) co_return fail(wanted.error());
  const auto status = payload_as<std::uint64_t>();
  if (!status) co_return fail(status.error());
  if (*status > 0xff) co_return fail(Error::peer_fault("a device status of 8 bits", *status));
  status_ = static_cast<std::uint8_t>(*status);
  if (status_ == 0) {
    auto stopping = stop_rings();
    co_await std::move(stopping);
    condition_->needs_reset = false;
  }
  co_return Answer::none();
}

task::Task<Result<Session::Answer>> Session::reset_device() {
  if (auto wanted = require_feature(kProtocolResetDevice); !wanted) co_return fail(wanted.error());
  status_ = 0;
  auto stopping = stop_rings();
  co_await std::move(stopping);
  for (const auto& ring : rings_) {
    auto resetting = ring->reset();
    co_await std::move(resetting);
    relay_.close(ring->index(), RingEvent::kCall);
    relay_.close(ring->index(), RingEvent::kError);
  }
  condition_->needs_reset = false;
  begin_rings();
  co_return Answer::none();
}

/// All that was taken is answered. What belongs to the connection stays: features, memory, the
/// socket for our own requests.
task::Task<> Session::stop_rings() {
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    auto stopping = rings_[i]->stop();
    (void)co_await std::move(stopping);
    relay_.close(static_cast<std::uint16_t>(i), RingEvent::kKick);
    auto disabling = rings_[i]->set_enabled(false);
    co_await std::move(disabling);
    if (inflight_) (void)inflight_->reset(static_cast<std::uint16_t>(i));
  }
  begin_rings();
}

/// Without protocol features there is no message that enables rings: they begin enabled.
void Session::begin_rings() {
  if ((features_ & kFeatureProtocolFeatures) != 0) return;
  for (const auto& ring : rings_) ring->begin_enabled();
}

task::Task<Result<Session::Answer>> Session::set_backend_request_fd() {
  if (auto wanted = require_feature(kProtocolBackendReq); !wanted) co_return fail(wanted.error());
  if (message_.descriptors.size() != 1) {
    co_return fail(
        Error::peer_fault("one socket for the backend's requests", message_.descriptors.size()));
  }
  UniqueFd socket = message_.descriptors.take(0);
  if (!is_stream_socket(socket.get())) {
    co_return fail(Error::peer_fault("a stream socket for the backend's requests"));
  }
  auto closing = channel_.close();
  co_await std::move(closing);
  channel_.open(std::move(socket), (protocol_features_ & kProtocolReplyAck) != 0
                                       ? Acknowledgement::kWanted
                                       : Acknowledgement::kNone);
  for (const auto& ring : inband_) ring->resend();
  co_return Answer::none();
}

bool Session::can_notify_config_change() const noexcept {
  constexpr ProtocolBits kNeeded = kProtocolBackendReq | kProtocolConfig;
  return (protocol_features_ & kNeeded) == kNeeded && channel_.is_usable();
}

void Session::notify_config_changed() noexcept {
  if (can_notify_config_change()) channel_.report_config_changed();
}

}  // namespace guestio::vhost
