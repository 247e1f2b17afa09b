// SPDX-License-Identifier: MIT
// A session that goes on in another process: how its rings come to a stop, what it is then, and how
// the other one begins with that.
#include <algorithm>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/task/event.h"
#include "guestio/task/scope.h"
#include "guestio/vhost/session/session.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

/// What a front-end shares and has made unusable is told apart from what never made sense.
Error blame_memory(const Error& error) noexcept {
  const bool is_cut_off =
      error.kind == ErrorKind::kOutOfRange || error.kind == ErrorKind::kPeerFault;
  return is_cut_off ? Error::make(ErrorKind::kMemoryFault, error.what, error.value, error.limit)
                    : error;
}

}  // namespace

task::Task<> Session::drain_ring(RingSetup& ring,
                                 std::vector<std::optional<std::size_t>>& outcomes) {
  auto pausing = ring.drain();
  const auto outcome = co_await std::move(pausing);
  outcomes.push_back(outcome);
}

task::Task<std::optional<Session::Obstacle>> Session::drain(task::StopToken limit) {
  std::vector<std::optional<std::size_t>> outcomes;
  task::Scope pausing;
  for (const auto& ring : rings_) pausing.spawn(drain_ring(*ring, outcomes));
  // A ring that is told to go on answers at once, so this ends soon in any case.
  const task::StopCallback on_limit(limit, [this]() noexcept {
    for (const auto& ring : rings_) ring->resume();
  });
  auto all = pausing.join();
  co_await all;
  Obstacle obstacle;
  for (const auto& waiting : outcomes) {
    obstacle.is_busy |= !waiting.has_value();
    obstacle.held_requests += waiting.value_or(0);
  }
  if (inflight_) obstacle.held_requests = 0;
  // What waits for memory that still arrives waits in this process.
  obstacle.is_busy |= faults_ != nullptr;
  // Two processes that read one pipe would lose kicks to each other.
  auto silencing = relay_.quiesce(limit);
  const bool is_silent = co_await std::move(silencing);
  obstacle.is_busy |= !is_silent;
  if (obstacle.is_busy || obstacle.held_requests != 0) co_return obstacle;
  co_return std::nullopt;
}

task::Task<> Session::freeze() {
  is_frozen_ = true;
  for (const auto& ring : rings_) {
    auto suspending = ring->freeze();
    co_await std::move(suspending);
  }
  for (const auto& ring : inband_) {
    auto pausing = ring->freeze();
    co_await std::move(pausing);
  }
  auto pausing = channel_.freeze();
  co_await std::move(pausing);
}

task::Task<Result<>> Session::resume_ring(RingSetup& ring) {
  if (!uses_device_) {
    if (auto begun = parts_.device.begin_use(); !begun) co_return begun;
    uses_device_ = true;
  }
  auto resuming = ring.resume(context());
  co_return co_await std::move(resuming);
}

task::Task<> Session::resume() {
  is_frozen_ = false;
  for (const auto& ring : rings_) {
    ring->resume();  // one that was only paused
    if (!ring->is_frozen()) continue;
    auto resuming = resume_ring(*ring);
    const auto resumed = co_await std::move(resuming);
    if (resumed) continue;
    log::rate_limited_warning(parts_.peer_log->faults,
                              "{}: a ring cannot go on, the connection ends: {}",
                              parts_.peer_log->name, resumed.error().to_string());
    disconnect();
  }
  for (const auto& ring : inband_) ring->resume();
  relay_.resume();
  channel_.resume();
  note_rings();
}

Result<SessionState> Session::snapshot() const {
  GUESTIO_CHECK(is_frozen_, "a session that is suspended");
  SessionState state;
  state.features = features_;
  state.protocol_features = protocol_features_;
  state.status = device_status();
  auto socket = duplicate_fd(socket_.get());
  if (!socket) return fail(socket.error());
  state.socket = std::move(*socket);
  if (memory_) {
    auto regions = memory_->snapshot();
    if (!regions) return fail(regions.error());
    state.memory = std::move(*regions);
  }
  if (inflight_) {
    auto file = duplicate_fd(inflight_->fd());
    if (!file) return fail(file.error());
    state.inflight = {inflight_->description(), inflight_->kind(), std::move(*file)};
  }
  if (log_) {
    auto file = duplicate_fd(log_file_.get());
    if (!file) return fail(file.error());
    state.log = {log_where_, std::move(*file)};
  }
  auto event = duplicate_fd(log_event_.get());
  if (!event) return fail(event.error());
  state.log_event = std::move(*event);
  auto channel = channel_.snapshot();
  if (!channel) return fail(channel.error());
  state.back_channel = std::move(*channel);
  auto incoming = PartialMessage::copy_of(message_);
  if (!incoming) return fail(incoming.error());
  state.partial_message = std::move(*incoming);
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    auto ring = rings_[i]->snapshot();
    if (!ring) return fail(ring.error());
    auto inband = inband_[i]->snapshot();
    if (!inband) return fail(inband.error());
    ring->inband = std::move(*inband);
    if (auto added = add_pipes(*ring, static_cast<std::uint16_t>(i)); !added) {
      return fail(added.error());
    }
    state.rings.push_back(std::move(*ring));
  }
  return state;
}

/// What the front-end gave, in place of the eventfds that stand for it here.
Result<> Session::add_pipes(RingState& ring, std::uint16_t index) const {
  for (const auto& [event, descriptor] :
       {std::pair(RingEvent::kKick, &ring.kick), std::pair(RingEvent::kCall, &ring.call),
        std::pair(RingEvent::kError, &ring.error)}) {
    auto pipe = relay_.pipe_of(index, event);
    if (!pipe) return fail(pipe.error());
    if (*pipe) *descriptor = std::move(*pipe);
  }
  return {};
}

/// The other way round.
Result<> Session::restore_pipes(RingState& ring, std::uint16_t index) {
  for (const auto& [event, descriptor] :
       {std::pair(RingEvent::kKick, &ring.kick), std::pair(RingEvent::kCall, &ring.call),
        std::pair(RingEvent::kError, &ring.error)}) {
    if (!*descriptor || !is_pipe(descriptor->get())) continue;
    auto eventfd = relay_.open(index, event, std::move(*descriptor));
    if (!eventfd) return fail(eventfd.error());
    *descriptor = std::move(*eventfd);
  }
  return {};
}

/// What is memory or a file of the front-end's.
Result<> Session::restore_shared(SessionState& state) {
  if (!state.memory.empty()) {
    auto memory = MemoryTable::map(std::move(state.memory));
    if (!memory) return fail(blame_memory(memory.error()));
    // The process before may have offered more slots; what it had is kept.
    (void)count_regions(**memory);
    use_memory(std::move(*memory));
  }
  if (state.inflight) {
    if (state.inflight->description.num_queues > rings_.size()) {
      return fail(Error::peer_fault("a record of rings that are offered",
                                    state.inflight->description.num_queues));
    }
    auto record = InflightRecord::map(state.inflight->description, std::move(state.inflight->file),
                                      state.inflight->kind);
    if (!record) return fail(blame_memory(record.error()));
    inflight_ = std::move(*record);
  }
  if (state.log) {
    if (auto used = use_log(state.log->description, std::move(state.log->file)); !used) {
      return fail(blame_memory(used.error()));
    }
  }
  if (state.log_event && !is_eventfd(state.log_event.get())) {
    return fail(Error::peer_fault("a log's event is an eventfd"));
  }
  log_event_ = std::move(state.log_event);
  return {};
}

Result<> Session::restore_rings(std::vector<RingState> rings) {
  if (rings.size() != rings_.size()) {
    return fail(Error::peer_fault("a session of as many rings as are offered", rings.size()));
  }
  for (std::size_t i = 0; i < rings.size(); ++i) {
    if ((rings[i].features & ~offered_features()) != 0) {
      return fail(ErrorKind::kUnsupported, "features of a ring", rings[i].features);
    }
    auto inband = std::move(rings[i].inband);
    if (auto adopted = inband_[i]->restore(std::move(inband)); !adopted) return adopted;
    if (auto adopted = restore_pipes(rings[i], static_cast<std::uint16_t>(i)); !adopted) {
      return adopted;
    }
    if (auto adopted = rings_[i]->restore(std::move(rings[i])); !adopted) return adopted;
  }
  return {};
}

Result<> Session::restore(SessionState state) {
  if ((state.features & ~offered_features()) != 0) {
    return fail(ErrorKind::kUnsupported, "features of a session", state.features);
  }
  if ((state.protocol_features & ~offered_protocol_features()) != 0) {
    return fail(ErrorKind::kUnsupported, "protocol features of a session", state.protocol_features);
  }
  features_ = state.features;
  protocol_features_ = state.protocol_features;
  status_ = state.status;
  condition_->needs_reset = (state.status & virtio::kStatusNeedsReset) != 0;
  if (auto adopted = std::move(state.partial_message).move_to(message_); !adopted) return adopted;
  if (state.back_channel) {
    if (auto adopted = channel_.restore(std::move(*state.back_channel)); !adopted) return adopted;
  }
  if (auto adopted = restore_rings(std::move(state.rings)); !adopted) return adopted;
  is_frozen_ = true;
  return restore_shared(state);
}

}  // namespace guestio::vhost
