// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/session_handover.h"

#include <array>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/base/log.h"
#include "guestio/task/scope.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

/// Tells memory that the front-end made unusable from a contradictory state.
Error blame_memory(const Error& error) noexcept {
  const bool is_truncated =
      error.kind == ErrorKind::kOutOfRange || error.kind == ErrorKind::kPeerFault;
  return is_truncated ? Error::make(ErrorKind::kMemoryFault, error.what, error.value, error.limit)
                      : error;
}

struct EventDescriptor {
  RingEvent event;
  UniqueFd* descriptor;
};

std::array<EventDescriptor, 3> descriptors_of(RingState& ring) noexcept {
  return {EventDescriptor{RingEvent::kKick, &ring.kick},
          EventDescriptor{RingEvent::kCall, &ring.call},
          EventDescriptor{RingEvent::kError, &ring.error}};
}

task::Task<> drain_ring(RingSetup& ring, std::vector<std::optional<std::size_t>>& outcomes) {
  const auto outcome = co_await ring.drain();
  outcomes.push_back(outcome);
}

}  // namespace

task::Task<std::optional<SessionHandover::Obstacle>> SessionHandover::drain(task::StopToken limit) {
  std::vector<std::optional<std::size_t>> outcomes;
  task::Scope draining;
  for (const auto& ring : session_.rings) draining.spawn(drain_ring(*ring, outcomes));
  // A resumed ring ends its drain at once, so this returns soon in any case.
  const task::StopCallback on_limit(limit, [this]() noexcept {
    for (const auto& ring : session_.rings) ring->resume();
  });
  co_await draining.join();
  Obstacle obstacle;
  for (const auto& held : outcomes) {
    obstacle.is_busy |= !held.has_value();
    obstacle.held_requests += held.value_or(0);
  }
  if (session_.inflight) obstacle.held_requests = 0;
  // A request that waits for arriving memory waits in this process.
  obstacle.is_busy |= postcopy_.is_active();
  // Two processes reading one pipe would lose each other's kicks.
  const bool is_quiesced = co_await session_.relay.quiesce(limit);
  obstacle.is_busy |= !is_quiesced;
  if (obstacle.is_busy || obstacle.held_requests != 0) co_return obstacle;
  co_return std::nullopt;
}

task::Task<> SessionHandover::freeze() {
  is_frozen_ = true;
  for (const auto& ring : session_.rings) co_await ring->freeze();
  for (const auto& ring : session_.inband) co_await ring->freeze();
  co_await session_.back_channel.freeze();
}

task::Task<> SessionHandover::resume() {
  is_frozen_ = false;
  for (const auto& ring : session_.rings) {
    ring->resume();  // from drain()
    if (!ring->is_frozen()) continue;
    const auto resumed = co_await session_.resume_ring(*ring);
    if (resumed) continue;
    const PeerLog& log = *session_.parts.peer_log;
    log::rate_limited_warning(session_.parts.peer_log->faults,
                              "{}: connection ends: a ring cannot resume: {}", log.name,
                              resumed.error().to_string());
    session_.disconnect();
  }
  for (const auto& ring : session_.inband) ring->resume();
  session_.relay.resume();
  session_.back_channel.resume();
  session_.update_device_use();
}

Result<SessionState> SessionHandover::snapshot() const {
  GUESTIO_CHECK(is_frozen_, "a frozen session");
  SessionState state;
  state.features = session_.features;
  state.protocol_features = session_.protocol_features;
  state.status = session_.device_status();
  auto socket = duplicate_fd(session_.socket.get());
  if (!socket) return fail(socket.error());
  state.socket = std::move(*socket);
  auto memory = memory_.snapshot();
  if (!memory) return fail(memory.error());
  state.memory = std::move(*memory);
  if (session_.inflight) {
    auto file = duplicate_fd(session_.inflight->fd());
    if (!file) return fail(file.error());
    state.inflight = {session_.inflight->description(), session_.inflight->kind(),
                      std::move(*file)};
  }
  if (auto added = log_.add_to(state); !added) return fail(added.error());
  auto back_channel = session_.back_channel.snapshot();
  if (!back_channel) return fail(back_channel.error());
  state.back_channel = std::move(*back_channel);
  auto partial_message = PartialMessage::copy_of(session_.message);
  if (!partial_message) return fail(partial_message.error());
  state.partial_message = std::move(*partial_message);
  for (const auto& ring : session_.rings) {
    auto ring_state = snapshot_ring(ring->index());
    if (!ring_state) return fail(ring_state.error());
    state.rings.push_back(std::move(*ring_state));
  }
  return state;
}

Result<RingState> SessionHandover::snapshot_ring(std::uint16_t index) const {
  auto ring = session_.rings[index]->snapshot();
  if (!ring) return ring;
  auto inband = session_.inband[index]->snapshot();
  if (!inband) return fail(inband.error());
  ring->inband = std::move(*inband);
  if (auto added = add_pipes(*ring, index); !added) return fail(added.error());
  return ring;
}

/// Replaces our eventfds by the front-end's pipes.
Result<> SessionHandover::add_pipes(RingState& ring, std::uint16_t index) const {
  for (const auto& [event, descriptor] : descriptors_of(ring)) {
    auto pipe = session_.relay.pipe_of(index, event);
    if (!pipe) return fail(pipe.error());
    if (*pipe) *descriptor = std::move(*pipe);
  }
  return {};
}

/// Replaces the front-end's pipes by eventfds of ours.
Result<> SessionHandover::restore_pipes(RingState& ring, std::uint16_t index) {
  for (const auto& [event, descriptor] : descriptors_of(ring)) {
    if (!*descriptor || !is_pipe(descriptor->get())) continue;
    auto eventfd = session_.relay.open(index, event, std::move(*descriptor));
    if (!eventfd) return fail(eventfd.error());
    *descriptor = std::move(*eventfd);
  }
  return {};
}

/// Memory and files shared by the front-end.
Result<> SessionHandover::restore_shared(SessionState& state) {
  if (auto memory = memory_.restore(std::move(state.memory)); !memory) {
    return fail(blame_memory(memory.error()));
  }
  if (state.inflight) {
    if (auto inflight = restore_inflight(std::move(*state.inflight)); !inflight) return inflight;
  }
  if (auto log = log_.restore_log(std::move(state.log)); !log) {
    return fail(blame_memory(log.error()));
  }
  return log_.set_event(std::move(state.log_event));
}

Result<> SessionHandover::restore_inflight(SessionState::Inflight state) {
  if (state.description.num_queues > session_.rings.size()) {
    return fail(Error::peer_fault("in-flight record for more rings than offered",
                                  state.description.num_queues));
  }
  auto record = InflightRecord::map(state.description, std::move(state.file), state.kind);
  if (!record) return fail(blame_memory(record.error()));
  session_.inflight = std::move(*record);
  return {};
}

Result<> SessionHandover::restore_rings(std::vector<RingState> rings) {
  if (rings.size() != session_.rings.size()) {
    return fail(Error::peer_fault("session state has not as many rings as offered", rings.size()));
  }
  for (std::size_t i = 0; i < rings.size(); ++i) {
    if ((rings[i].features & ~session_.offered_features()) != 0) {
      return fail(ErrorKind::kUnsupported, "features of a ring", rings[i].features);
    }
    auto inband = session_.inband[i]->restore(std::move(rings[i].inband));
    if (!inband) return inband;
    auto pipes = restore_pipes(rings[i], static_cast<std::uint16_t>(i));
    if (!pipes) return pipes;
    auto ring = session_.rings[i]->restore(std::move(rings[i]));
    if (!ring) return ring;
  }
  return {};
}

Result<> SessionHandover::restore(SessionState state) {
  if ((state.features & ~session_.offered_features()) != 0) {
    return fail(ErrorKind::kUnsupported, "features of a session", state.features);
  }
  if ((state.protocol_features & ~session_.offered_protocol_features()) != 0) {
    return fail(ErrorKind::kUnsupported, "protocol features of a session", state.protocol_features);
  }
  session_.features = state.features;
  session_.protocol_features = state.protocol_features;
  session_.status = state.status;
  session_.condition->needs_reset = (state.status & virtio::kStatusNeedsReset) != 0;
  auto message = std::move(state.partial_message).move_to(session_.message);
  if (!message) return message;
  if (state.back_channel) {
    auto back_channel = session_.back_channel.restore(std::move(*state.back_channel));
    if (!back_channel) return back_channel;
  }
  auto rings = restore_rings(std::move(state.rings));
  if (!rings) return rings;
  is_frozen_ = true;
  return restore_shared(state);
}

}  // namespace guestio::vhost
