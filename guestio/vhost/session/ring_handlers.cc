// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/ring_handlers.h"

#include <cstddef>
#include <cstring>
#include <utility>

#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

task::Task<Result<Reply>> RingHandlers::start_if_ready(RingSetup& ring) {
  const auto started = co_await session_.start_if_ready(ring);
  if (!started) co_return fail(started.error());
  co_return Reply::empty();
}

task::Task<Result<Reply>> RingHandlers::handle_set_vring_num() {
  const auto state = session_.payload_as<VringState>();
  if (!state) co_return fail(state.error());
  const auto ring = session_.find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  if (auto set = (*ring)->set_size(state->num, session_.features); !set) {
    co_return fail(set.error());
  }
  co_return co_await start_if_ready(**ring);
}

task::Task<Result<Reply>> RingHandlers::handle_set_vring_base() {
  const auto state = session_.payload_as<VringState>();
  if (!state) co_return fail(state.error());
  const auto ring = session_.find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  if (auto set = (*ring)->set_base(state->num, session_.features); !set) {
    co_return fail(set.error());
  }
  co_return co_await start_if_ready(**ring);
}

task::Task<Result<Reply>> RingHandlers::handle_set_vring_addr() {
  const auto addresses = session_.payload_as<VringAddress>();
  if (!addresses) co_return fail(addresses.error());
  const auto ring = session_.find_ring(addresses->index);
  if (!ring) co_return fail(ring.error());
  if (auto set = (*ring)->set_addresses(*addresses); !set) co_return fail(set.error());
  const auto changed = co_await (*ring)->change_log(session_.ring_context());
  if (!changed) co_return fail(changed.error());
  co_return co_await start_if_ready(**ring);
}

task::Task<Result<Reply>> RingHandlers::handle_set_vring_kick() {
  const auto ring = set_descriptor(RingEvent::kKick);
  if (!ring) co_return fail(ring.error());
  co_return co_await start_if_ready(**ring);
}

Result<Reply> RingHandlers::handle_set_vring_call() {
  const auto ring = set_descriptor(RingEvent::kCall);
  if (!ring) return fail(ring.error());
  return Reply::empty();
}

Result<Reply> RingHandlers::handle_set_vring_err() {
  const auto ring = set_descriptor(RingEvent::kError);
  if (!ring) return fail(ring.error());
  return Reply::empty();
}

Result<RingSetup*> RingHandlers::set_descriptor(RingEvent event) {
  const auto word = session_.payload_as<std::uint64_t>();
  if (!word) return fail(word.error());
  const bool has_descriptor = (*word & kVringNoFd) == 0;
  const std::size_t descriptors = session_.message.descriptors.size();
  if (descriptors != (has_descriptor ? 1 : 0)) {
    return fail(
        Error::peer_fault("descriptors contradict the flag for no descriptor", descriptors));
  }
  const std::uint64_t index = *word & kVringIndexMask;
  auto ring = session_.find_ring(static_cast<std::uint32_t>(index));
  if (!ring) return ring;
  auto descriptor = take_descriptor(static_cast<std::uint16_t>(index), event);
  if (!descriptor) return fail(descriptor.error());
  if (auto set = (*ring)->set_descriptor(event, std::move(*descriptor)); !set) {
    return fail(set.error());
  }
  return ring;
}

/// The descriptor for the ring: the eventfd of the message, or one of ours in place of a pipe or of
/// messages; empty where there is none.
Result<UniqueFd> RingHandlers::take_descriptor(std::uint16_t ring, RingEvent event) {
  if (session_.message.descriptors.is_empty()) {
    session_.relay.close(ring, event);
    return session_.has_feature(kProtocolInbandNotifications)
               ? session_.inband[ring]->descriptor_for(event)
               : UniqueFd();
  }
  UniqueFd descriptor = session_.message.descriptors.take(0);
  if (is_pipe(descriptor.get())) return session_.relay.open(ring, event, std::move(descriptor));
  if (!is_eventfd(descriptor.get())) {
    return fail(
        Error::peer_fault("kick, call or error descriptor is neither an eventfd nor a pipe"));
  }
  session_.relay.close(ring, event);
  return descriptor;
}

task::Task<Result<Reply>> RingHandlers::handle_set_vring_enable() {
  const auto state = session_.payload_as<VringState>();
  if (!state) co_return fail(state.error());
  if (state->num > 1) {
    co_return fail(Error::peer_fault("SET_VRING_ENABLE with neither 0 nor 1", state->num));
  }
  const auto ring = session_.find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  co_await (*ring)->set_enabled(state->num == 1);
  co_return Reply::empty();
}

/// A front-end with in-band kicks need not say that a ring has no descriptors. The kick comes last:
/// it starts the ring.
Result<> RingHandlers::set_inband_descriptors(RingSetup& ring) {
  for (const RingEvent event : {RingEvent::kCall, RingEvent::kError, RingEvent::kKick}) {
    if (ring.has_descriptor(event)) continue;
    auto descriptor = session_.inband[ring.index()]->descriptor_for(event);
    if (!descriptor) return fail(descriptor.error());
    if (auto set = ring.set_descriptor(event, std::move(*descriptor)); !set) return set;
  }
  return {};
}

task::Task<Result<Reply>> RingHandlers::handle_vring_kick() {
  if (auto required = session_.require_feature(kProtocolInbandNotifications); !required) {
    co_return fail(required.error());
  }
  const auto state = session_.payload_as<VringState>();
  if (!state) co_return fail(state.error());
  if (state->num != 0) {
    co_return fail(Error::peer_fault("VRING_KICK with a number other than 0", state->num));
  }
  const auto ring = session_.find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  if (!(*ring)->has_kick()) {
    if (auto set = set_inband_descriptors(**ring); !set) co_return fail(set.error());
    const auto started = co_await session_.start_if_ready(**ring);
    if (!started) co_return fail(started.error());
  }
  session_.inband[state->index]->kick();
  co_return Reply::empty();
}

task::Task<Result<Reply>> RingHandlers::handle_get_vring_base() {
  const auto state = session_.payload_as<VringState>();
  if (!state) co_return fail(state.error());
  const auto ring = session_.find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  const std::uint32_t base = co_await (*ring)->stop();
  session_.relay.close((*ring)->index(), RingEvent::kKick);
  // All chains are returned, and from now on the front-end decides where the ring resumes.
  if (session_.inflight) (void)session_.inflight->reset((*ring)->index());
  co_return Reply::of(VringState{state->index, base});
}

/// QEMU sends the description with the padding of the C struct, others without.
Result<InflightDescription> RingHandlers::inflight_payload() const {
  if (!session_.has_feature(kProtocolInflightShmfd)) {
    return fail(Error::peer_fault("in-flight message without INFLIGHT_SHMFD negotiated"));
  }
  const std::size_t size = session_.message.header.size;
  if (size != kInflightDescriptionBytes && size != sizeof(InflightDescription)) {
    return fail(Error::peer_fault("wrong payload size of an in-flight message", size));
  }
  InflightDescription description{};
  std::memcpy(&description, session_.message.bytes.data(), kInflightDescriptionBytes);
  if (description.num_queues > session_.rings.size()) {
    return fail(
        Error::peer_fault("in-flight record for more rings than offered", description.num_queues));
  }
  return description;
}

Result<Reply> RingHandlers::handle_get_inflight_fd() {
  const auto wanted = inflight_payload();
  if (!wanted) return fail(wanted.error());
  auto created = InflightRecord::create(virtio::ring_kind(session_.features), wanted->num_queues,
                                        wanted->queue_size);
  if (!created) return fail(created.error());
  // The front-end hands it back with SET_INFLIGHT_FD.
  created_inflight_ = std::move(*created);
  Reply reply = Reply::empty();
  // Not the padding after the struct's last field: its bytes are indeterminate.
  reply.payload.fill(std::byte{0});
  std::memcpy(reply.payload.data(), &created_inflight_->description(), kInflightDescriptionBytes);
  reply.size = session_.message.header.size;
  reply.descriptor = created_inflight_->fd();
  return reply;
}

Result<Reply> RingHandlers::handle_set_inflight_fd() {
  const auto description = inflight_payload();
  if (!description) return fail(description.error());
  DescriptorList& descriptors = session_.message.descriptors;
  if (descriptors.size() != 1) {
    return fail(
        Error::peer_fault("SET_INFLIGHT_FD without exactly one descriptor", descriptors.size()));
  }
  for (const auto& ring : session_.rings) {
    if (ring->is_running()) return fail(Error::peer_fault("SET_INFLIGHT_FD while a ring runs"));
  }
  auto mapped =
      InflightRecord::map(*description, descriptors.take(0), virtio::ring_kind(session_.features));
  if (!mapped) return fail(mapped.error());
  session_.inflight = std::move(*mapped);
  return Reply::empty();
}

}  // namespace guestio::vhost
