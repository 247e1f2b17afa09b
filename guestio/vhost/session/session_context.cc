// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/session_context.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

namespace guestio::vhost {

SessionContext::SessionContext(const Parts& its_parts, UniqueFd its_socket)
    : parts(its_parts), socket(std::move(its_socket)) {
  for (std::size_t i = 0; i < parts.queues.size(); ++i) {
    const auto index = static_cast<std::uint16_t>(i);
    rings.push_back(std::make_unique<RingSetup>(*parts.queues[i], parts.home, index));
    inband.push_back(std::make_unique<InbandRing>(parts.home, back_channel, index));
  }
}

std::uint64_t SessionContext::offered_features() const noexcept {
  return parts.device.offered_features() | virtio::kFeatureVersion1 | parts.ring_features |
         kFeatureProtocolFeatures | kFeatureLogAll;
}

ProtocolBits SessionContext::offered_protocol_features() const noexcept {
  return kProtocolMq | kProtocolReplyAck | kProtocolConfig | kProtocolInflightShmfd |
         kProtocolConfigureMemSlots | kProtocolBackendReq | kProtocolResetDevice | kProtocolStatus |
         kProtocolLogShmfd | kProtocolInbandNotifications |
         (parts.offers_post_copy ? kProtocolPagefault : 0);
}

Result<> SessionContext::require_feature(ProtocolBits feature) const {
  if (has_feature(feature)) return {};
  return fail(ErrorKind::kUnsupported, "message without its protocol feature",
              message.header.request);
}

std::uint8_t SessionContext::device_status() const noexcept {
  return condition->needs_reset ? status | virtio::kStatusNeedsReset : status;
}

Result<RingSetup*> SessionContext::find_ring(std::uint32_t index) {
  if (index >= rings.size()) return fail(Error::peer_fault("ring index out of range", index));
  return rings[index].get();
}

RingContext SessionContext::ring_context() const {
  return {.features = features,
          .memory = memory,
          .inflight = inflight,
          .registry = parts.registry,
          .log = (features & kFeatureLogAll) != 0 ? log.pages : nullptr,
          .log_event = &log.event,
          .peer_log = parts.peer_log,
          .on_broken = [condition = condition, &home = parts.home] {
            condition->needs_reset = true;
            home.post([condition] {
              if (condition->report) condition->report();
            });
          }};
}

Result<> SessionContext::begin_device_use() {
  if (uses_device_) return {};
  if (auto begun = parts.device.begin_use(); !begun) return begun;
  uses_device_ = true;
  return {};
}

task::Task<Result<>> SessionContext::start_if_ready(RingSetup& ring) {
  if (!ring.is_ready(ring_context())) co_return Result<>();
  if (auto begun = begin_device_use(); !begun) {
    ring.reject_start();
    co_return begun;
  }
  co_return co_await ring.start(ring_context());
}

task::Task<Result<>> SessionContext::resume_ring(RingSetup& ring) {
  if (auto begun = begin_device_use(); !begun) co_return begun;
  co_return co_await ring.resume_frozen(ring_context());
}

task::Task<Result<>> SessionContext::update_logs() {
  Result<> outcome;
  for (const auto& ring : rings) {
    auto changed = co_await ring->change_log(ring_context());
    if (!changed) outcome = std::move(changed);
  }
  co_return outcome;
}

void SessionContext::update_device_use() {
  const bool any_runs = std::ranges::any_of(
      rings, [](const std::unique_ptr<RingSetup>& ring) { return ring->is_running(); });
  if (uses_device_ && !any_runs) {
    parts.device.end_use();
    uses_device_ = false;
  }
  back_channel.set_suspended(!any_runs);
}

void SessionContext::disconnect() noexcept { ::shutdown(socket.get(), SHUT_RDWR); }

}  // namespace guestio::vhost
