// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/session.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "guestio/vhost/wire/async_message_io.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

/// Messages that have an answer of their own, whether acknowledgements were negotiated or not.
bool has_own_answer(FrontendRequest request, ProtocolBits negotiated) noexcept {
  switch (request) {
    case FrontendRequest::kGetFeatures:
    case FrontendRequest::kGetProtocolFeatures:
    case FrontendRequest::kGetQueueNum:
    case FrontendRequest::kGetVringBase:
    case FrontendRequest::kGetConfig:
    case FrontendRequest::kGetInflightFd:
    case FrontendRequest::kGetMaxMemSlots:
    case FrontendRequest::kGetStatus: return true;
    // Without it the message is unknown, and answered as such.
    case FrontendRequest::kSetLogBase: return (negotiated & kProtocolLogShmfd) != 0;
    case FrontendRequest::kPostcopyAdvise:
    case FrontendRequest::kPostcopyEnd: return (negotiated & kProtocolPagefault) != 0;
    default: return false;
  }
}

/// Whether a failure of ours would leave the front-end with a ring that does not hear or call it:
/// front-ends send these messages without asking for an answer. One whose connection ends comes
/// back. So does one that this process has no more descriptors for.
bool leaves_ring_deaf(FrontendRequest request, const Error& error) noexcept {
  const bool is_host = error.kind == ErrorKind::kHost;
  switch (request) {
    case FrontendRequest::kSetVringKick:
    case FrontendRequest::kSetVringCall:
    case FrontendRequest::kSetVringErr:
      // Too large: threads for pipes are all stalled.
      return is_host || error.kind == ErrorKind::kTooLarge;
    // These may start a ring, or have its writes noted.
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

Session::Session(const Parts& parts, UniqueFd socket) : parts_(parts), socket_(std::move(socket)) {
  for (std::size_t i = 0; i < parts.queues.size(); ++i) {
    rings_.push_back(
        std::make_unique<RingSetup>(*parts.queues[i], parts.home, static_cast<std::uint16_t>(i)));
    inband_.push_back(
        std::make_unique<InbandRing>(parts.home, channel_, static_cast<std::uint16_t>(i)));
  }
  condition_->tell = [this] { report_needs_reset(); };
}

void Session::disconnect() noexcept { ::shutdown(socket_.get(), SHUT_RDWR); }

task::Task<> Session::run() {
  if (is_frozen_) {
    auto going_on = resume();
    co_await std::move(going_on);
  }
  while (true) {
    if (parts_.rest.is_requested()) {
      auto resting = parts_.rest.rest();
      co_await resting;
      continue;
    }
    auto serving = serve_one();
    const auto served = co_await std::move(serving);
    if (served || served.error().kind == ErrorKind::kCancelled) continue;
    log_end(served.error());
    break;
  }
  // Nobody brings what is waited for any more.
  faults_.reset();
  // The rings first: while one runs it may touch memory and descriptors.
  for (const auto& ring : rings_) {
    auto resetting = ring->reset();
    co_await std::move(resetting);
  }
  note_rings();
  for (const auto& ring : inband_) {
    auto closing_ring = ring->close();
    co_await std::move(closing_ring);
  }
  auto ending = relay_.end();
  co_await std::move(ending);
  auto closing = channel_.close();
  co_await std::move(closing);
  memory_.reset();
}

void Session::log_end(const Error& cause) {
  if (cause.kind == ErrorKind::kClosed) return;
  const bool is_ours = cause.kind == ErrorKind::kHost;
  log::rate_limited_warning(parts_.peer_log->faults, "{}: {}connection to the front-end ends: {}",
                            parts_.peer_log->name, is_ours ? "host failure: " : "",
                            cause.to_string());
}

/// One message: receive, obey, answer. Errors end the connection.
task::Task<Result<>> Session::serve_one() {
  auto receiving = receive_message(parts_.home, socket_.get(), message_, parts_.rest.token());
  const auto received = co_await std::move(receiving);
  if (!received) co_return received;
  auto obeying = handle_message();
  const auto outcome = co_await std::move(obeying);
  message_.descriptors.clear();
  note_rings();
  if (!outcome) {
    if (leaves_ring_deaf(static_cast<FrontendRequest>(message_.header.request), outcome.error())) {
      co_return fail(outcome.error());
    }
    log::rate_limited_warning(parts_.peer_log->faults,
                              "{}: refused message {} of the front-end: {}", parts_.peer_log->name,
                              message_.header.request, outcome.error().to_string());
  }
  auto responding = respond(outcome);
  co_return co_await std::move(responding);
}

task::Task<Result<>> Session::respond(const Result<Answer>& outcome) {
  const auto request = static_cast<FrontendRequest>(message_.header.request);
  const bool wants_acknowledgement = (message_.header.flags & kMessageNeedReply) != 0 &&
                                     (protocol_features_ & kProtocolReplyAck) != 0;
  Answer answer;
  if (outcome && outcome->way == Answer::Way::kSilent) co_return Result<>();
  if (has_own_answer(request, protocol_features_) ||
      (outcome && outcome->way == Answer::Way::kOwn)) {
    // A refusal has no payload, but where the payload is nothing but a code.
    if (outcome) answer = *outcome;
    if (!outcome && request == FrontendRequest::kSetLogBase) answer = Answer::of(std::uint64_t{1});
  } else if (wants_acknowledgement) {
    answer = Answer::of(std::uint64_t{outcome ? 0U : 1U});
  } else {
    co_return Result<>();
  }
  is_replying_ = true;
  auto sending = send_reply(parts_.home, socket_.get(), message_.header.request,
                            std::span(answer.payload).first(answer.size), answer.descriptor);
  const auto sent = co_await std::move(sending);
  is_replying_ = false;
  co_return sent;
}

task::Task<Result<Session::Answer>> Session::handle_message() {
  const auto request = static_cast<FrontendRequest>(message_.header.request);
  switch (request) {
    case FrontendRequest::kSetMemTable: {
      auto setting = set_memory_table();
      co_return co_await std::move(setting);
    }
    case FrontendRequest::kAddMemReg: {
      auto adding = add_memory_region();
      co_return co_await std::move(adding);
    }
    case FrontendRequest::kRemMemReg: {
      auto removing = remove_memory_region();
      co_return co_await std::move(removing);
    }
    case FrontendRequest::kSetVringEnable: {
      auto enabling = set_vring_enable();
      co_return co_await std::move(enabling);
    }
    case FrontendRequest::kSetFeatures: {
      auto setting = set_features();
      co_return co_await std::move(setting);
    }
    case FrontendRequest::kSetLogBase: {
      auto setting = set_log_base();
      co_return co_await std::move(setting);
    }
    case FrontendRequest::kSetLogFd: {
      auto setting = set_log_event();
      co_return co_await std::move(setting);
    }
    case FrontendRequest::kSetBackendReqFd: {
      auto setting = set_backend_request_fd();
      co_return co_await std::move(setting);
    }
    case FrontendRequest::kSetStatus: {
      auto setting = set_status();
      co_return co_await std::move(setting);
    }
    case FrontendRequest::kResetDevice: {
      auto resetting = reset_device();
      co_return co_await std::move(resetting);
    }
    case FrontendRequest::kGetVringBase: {
      auto getting = get_vring_base();
      co_return co_await std::move(getting);
    }
    case FrontendRequest::kVringKick: {
      auto kicking = kick_vring();
      co_return co_await std::move(kicking);
    }
    case FrontendRequest::kSetVringNum:
    case FrontendRequest::kSetVringBase:
    case FrontendRequest::kSetVringAddr:
    case FrontendRequest::kSetVringKick: {
      auto obeying = handle_for_ring(request);
      co_return co_await std::move(obeying);
    }
    default: co_return handle_sync(request);
  }
}

Result<Session::Answer> Session::handle_sync(FrontendRequest request) {
  switch (request) {
    case FrontendRequest::kGetFeatures: return Answer::of(offered_features());
    case FrontendRequest::kGetProtocolFeatures: return Answer::of(offered_protocol_features());
    case FrontendRequest::kSetProtocolFeatures: return set_protocol_features();
    case FrontendRequest::kGetQueueNum: return Answer::of(std::uint64_t{rings_.size()});
    case FrontendRequest::kSetOwner:
    case FrontendRequest::kResetOwner: return Answer::none();
    case FrontendRequest::kGetConfig: return get_config();
    case FrontendRequest::kSetConfig: return set_config();
    case FrontendRequest::kGetInflightFd: return get_inflight();
    case FrontendRequest::kSetInflightFd: return set_inflight();
    case FrontendRequest::kGetStatus: return get_status();
    case FrontendRequest::kGetMaxMemSlots: return get_max_memory_slots();
    case FrontendRequest::kPostcopyAdvise: return advise_post_copy();
    case FrontendRequest::kPostcopyListen: return listen_for_post_copy();
    case FrontendRequest::kPostcopyEnd: return end_post_copy();
    case FrontendRequest::kSetVringCall: return set_vring_descriptor(RingEvent::kCall);
    case FrontendRequest::kSetVringErr: return set_vring_descriptor(RingEvent::kError);
    default: return fail(ErrorKind::kUnsupported, "message that was not negotiated or is unknown");
  }
}

/// What a ring may have been waiting for.
task::Task<Result<Session::Answer>> Session::handle_for_ring(FrontendRequest request) {
  Result<Answer> obeyed = fail(ErrorKind::kUnsupported, "message for a ring");
  switch (request) {
    case FrontendRequest::kSetVringNum: obeyed = set_vring_size(); break;
    case FrontendRequest::kSetVringBase: obeyed = set_vring_base(); break;
    case FrontendRequest::kSetVringAddr: obeyed = set_vring_addresses(); break;
    default: obeyed = set_vring_descriptor(RingEvent::kKick); break;
  }
  if (!obeyed) co_return obeyed;
  // Each of these messages begins with the ring's index, the last one in eight bits.
  std::uint32_t index = 0;
  std::memcpy(&index, message_.bytes.data(), sizeof index);
  if (request == FrontendRequest::kSetVringKick) index &= kVringIndexMask;
  if (request == FrontendRequest::kSetVringAddr) {
    auto changing = rings_[index]->change_log(context());
    const auto changed = co_await std::move(changing);
    if (!changed) co_return fail(changed.error());
  }
  auto starting = start_if_ready(*rings_[index]);
  const auto started = co_await std::move(starting);
  if (!started) co_return fail(started.error());
  co_return obeyed;
}

task::Task<Result<>> Session::start_if_ready(RingSetup& ring) {
  if (!ring.is_ready(context())) co_return Result<>();
  if (!uses_device_) {
    if (auto begun = parts_.device.begin_use(); !begun) {
      ring.refuse_start();
      co_return begun;
    }
    uses_device_ = true;
  }
  auto starting = ring.start(context());
  co_return co_await std::move(starting);
}

/// A front-end that kicks by messages need not say that the ring has no descriptors. The kick comes
/// last: it starts the ring.
Result<> Session::set_inband_descriptors(RingSetup& ring) {
  for (const RingEvent event : {RingEvent::kCall, RingEvent::kError, RingEvent::kKick}) {
    if (ring.has_descriptor(event)) continue;
    auto descriptor = inband_[ring.index()]->descriptor_for(event);
    if (!descriptor) return fail(descriptor.error());
    if (auto set = ring.set_descriptor(event, std::move(*descriptor)); !set) return set;
  }
  return {};
}

/// What follows from whether any ring runs.
void Session::note_rings() {
  const bool any_runs = std::ranges::any_of(
      rings_, [](const std::unique_ptr<RingSetup>& ring) { return ring->is_running(); });
  if (uses_device_ && !any_runs) {
    parts_.device.end_use();
    uses_device_ = false;
  }
  channel_.set_suspended(!any_runs);
}

std::uint64_t Session::offered_features() const noexcept {
  return parts_.device.offered_features() | virtio::kFeatureVersion1 | parts_.ring_features |
         kFeatureProtocolFeatures | kFeatureLogAll;
}

ProtocolBits Session::offered_protocol_features() const noexcept {
  return kProtocolMq | kProtocolReplyAck | kProtocolConfig | kProtocolInflightShmfd |
         kProtocolConfigureMemSlots | kProtocolBackendReq | kProtocolResetDevice | kProtocolStatus |
         kProtocolLogShmfd | kProtocolInbandNotifications |
         (parts_.offers_post_copy ? kProtocolPagefault : 0);
}

Result<> Session::require_feature(ProtocolBits feature) const {
  if ((protocol_features_ & feature) != 0) return {};
  return fail(ErrorKind::kUnsupported, "message that was not negotiated", message_.header.request);
}

RingContext Session::context() const {
  return {.features = features_,
          .memory = memory_,
          .inflight = inflight_,
          .fixed = parts_.fixed,
          .log = (features_ & kFeatureLogAll) != 0 ? log_ : nullptr,
          .log_event = &log_event_,
          .peer_log = parts_.peer_log,
          .on_broken = [condition = condition_, &home = parts_.home] {
            condition->needs_reset = true;
            home.post([condition] {
              if (condition->tell) condition->tell();
            });
          }};
}

Result<RingSetup*> Session::find_ring(std::uint32_t index) {
  if (index >= rings_.size()) return fail(Error::peer_fault("a ring that was offered", index));
  return rings_[index].get();
}

template <typename Change>
Result<Session::Answer> Session::with_ring(std::uint32_t index, Change change) {
  auto ring = find_ring(index);
  if (!ring) return fail(ring.error());
  if (auto changed = change(**ring); !changed) return fail(changed.error());
  return Answer::none();
}

namespace {

/// The head of a configuration message, checked against the message's own size.
Result<ConfigHeader> parse_config_header(const Message& message) {
  ConfigHeader header{};
  if (message.header.size < sizeof header) {
    return fail(Error::peer_fault("the size of a configuration message", message.header.size));
  }
  std::memcpy(&header, message.bytes.data(), sizeof header);
  // What stands behind as many bytes as the head says is ignored.
  if (header.size > kMaxConfig || message.header.size < sizeof header + header.size) {
    return fail(Error::peer_fault("size of a configuration beyond the message's", header.size));
  }
  return header;
}

}  // namespace

Result<Session::Answer> Session::get_config() const {
  const auto header = parse_config_header(message_);
  if (!header) return fail(header.error());
  Answer answer = Answer::of(*header);
  answer.size += header->size;
  const auto to = std::span(answer.payload).subspan(sizeof(ConfigHeader), header->size);
  if (auto read = parts_.device.read_config(header->offset, to); !read) return fail(read.error());
  return answer;
}

Result<Session::Answer> Session::set_config() {
  const auto header = parse_config_header(message_);
  if (!header) return fail(header.error());
  if (header->flags != kConfigWritable && header->flags != kConfigMigration) {
    return fail(Error::peer_fault("flags of a configuration message", header->flags));
  }
  const auto from = message_.payload().subspan(sizeof(ConfigHeader), header->size);
  if (auto written = parts_.device.write_config(header->offset, from); !written) {
    return fail(written.error());
  }
  return Answer::none();
}

/// QEMU sends the description with the padding that C gives it, others without.
Result<InflightDescription> Session::inflight_payload() const {
  if ((protocol_features_ & kProtocolInflightShmfd) == 0) {
    return fail(Error::peer_fault("in-flight record that was not negotiated"));
  }
  const std::size_t size = message_.header.size;
  if (size != kInflightDescriptionBytes && size != sizeof(InflightDescription)) {
    return fail(Error::peer_fault("the size of a message about an in-flight record", size));
  }
  InflightDescription description{};
  std::memcpy(&description, message_.bytes.data(), kInflightDescriptionBytes);
  if (description.num_queues > rings_.size()) {
    return fail(Error::peer_fault("a record of rings that were offered", description.num_queues));
  }
  return description;
}

Result<Session::Answer> Session::get_inflight() {
  const auto wanted = inflight_payload();
  if (!wanted) return fail(wanted.error());
  auto made =
      InflightRecord::create(virtio::ring_kind(features_), wanted->num_queues, wanted->queue_size);
  if (!made) return fail(made.error());
  // Kept until the message is out, at least; the front-end hands it back with the next one.
  made_inflight_ = std::move(*made);
  Answer answer;
  // Without the padding behind the struct's last field, which is anything.
  answer.payload.fill(std::byte{0});
  std::memcpy(answer.payload.data(), &made_inflight_->description(), kInflightDescriptionBytes);
  answer.size = message_.header.size;
  answer.descriptor = made_inflight_->fd();
  return answer;
}

Result<Session::Answer> Session::set_inflight() {
  const auto description = inflight_payload();
  if (!description) return fail(description.error());
  if (message_.descriptors.size() != 1) {
    return fail(
        Error::peer_fault("one descriptor for an in-flight record", message_.descriptors.size()));
  }
  for (const auto& ring : rings_) {
    if (ring->is_running()) return fail(Error::peer_fault("a record for rings that run"));
  }
  auto mapped =
      InflightRecord::map(*description, message_.descriptors.take(0), virtio::ring_kind(features_));
  if (!mapped) return fail(mapped.error());
  inflight_ = std::move(*mapped);
  return Answer::none();
}

Result<Session::Answer> Session::set_vring_size() {
  const auto state = payload_as<VringState>();
  if (!state) return fail(state.error());
  return with_ring(state->index,
                   [&](RingSetup& ring) { return ring.set_size(state->num, features_); });
}

Result<Session::Answer> Session::set_vring_base() {
  const auto state = payload_as<VringState>();
  if (!state) return fail(state.error());
  return with_ring(state->index,
                   [&](RingSetup& ring) { return ring.set_base(state->num, features_); });
}

Result<Session::Answer> Session::set_vring_addresses() {
  const auto addresses = payload_as<VringAddress>();
  if (!addresses) return fail(addresses.error());
  return with_ring(addresses->index,
                   [&](RingSetup& ring) { return ring.set_addresses(*addresses); });
}

task::Task<Result<Session::Answer>> Session::set_vring_enable() {
  const auto state = payload_as<VringState>();
  if (!state) co_return fail(state.error());
  if (state->num > 1) co_return fail(Error::peer_fault("a ring is enabled or not", state->num));
  auto ring = find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  auto enabling = (*ring)->set_enabled(state->num == 1);
  co_await std::move(enabling);
  co_return Answer::none();
}

Result<Session::Answer> Session::set_vring_descriptor(RingEvent event) {
  const auto word = payload_as<std::uint64_t>();
  if (!word) return fail(word.error());
  const bool has_descriptor = (*word & kVringNoFd) == 0;
  if (message_.descriptors.size() != (has_descriptor ? 1 : 0)) {
    return fail(Error::peer_fault("one descriptor, or the flag that there is none",
                                  message_.descriptors.size()));
  }
  const std::uint64_t index = *word & kVringIndexMask;
  auto ring = find_ring(static_cast<std::uint32_t>(index));
  if (!ring) return fail(ring.error());
  auto descriptor = take_ring_descriptor(static_cast<std::uint16_t>(index), event);
  if (!descriptor) return fail(descriptor.error());
  if (auto set = (*ring)->set_descriptor(event, std::move(*descriptor)); !set) {
    return fail(set.error());
  }
  return Answer::none();
}

/// What the ring is to use for the event: the message's eventfd, or one of ours that stands for a
/// pipe or for messages; empty where there is none.
Result<UniqueFd> Session::take_ring_descriptor(std::uint16_t ring, RingEvent event) {
  if (message_.descriptors.is_empty()) {
    relay_.close(ring, event);
    const bool is_inband = (protocol_features_ & kProtocolInbandNotifications) != 0;
    return is_inband ? inband_[ring]->descriptor_for(event) : UniqueFd();
  }
  UniqueFd descriptor = message_.descriptors.take(0);
  if (is_pipe(descriptor.get())) return relay_.open(ring, event, std::move(descriptor));
  if (!is_eventfd(descriptor.get())) {
    return fail(
        Error::peer_fault("kick, call or error descriptor is neither an eventfd nor a pipe"));
  }
  relay_.close(ring, event);
  return descriptor;
}

/// A kick also starts a ring that was given no kick descriptor (vhost-user, "Ring states").
task::Task<Result<Session::Answer>> Session::kick_vring() {
  if (auto wanted = require_feature(kProtocolInbandNotifications); !wanted)
    co_return fail(wanted.error());
  const auto state = payload_as<VringState>();
  if (!state) co_return fail(state.error());
  if (state->num != 0) co_return fail(Error::peer_fault("number in a kick", state->num));
  const auto ring = find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  if (!(*ring)->is_kick_known()) {
    if (auto set = set_inband_descriptors(**ring); !set) co_return fail(set.error());
    auto starting = start_if_ready(**ring);
    const auto started = co_await std::move(starting);
    if (!started) co_return fail(started.error());
  }
  inband_[state->index]->kick();
  co_return Answer::none();
}

task::Task<Result<Session::Answer>> Session::get_vring_base() {
  const auto state = payload_as<VringState>();
  if (!state) co_return fail(state.error());
  auto ring = find_ring(state->index);
  if (!ring) co_return fail(ring.error());
  auto stopping = (*ring)->stop();
  const std::uint32_t next = co_await std::move(stopping);
  relay_.close(static_cast<std::uint16_t>(state->index), RingEvent::kKick);
  // All is answered, and where the ring goes on is the front-end's to say from now on.
  if (inflight_) (void)inflight_->reset(static_cast<std::uint16_t>(state->index));
  co_return Answer::of(VringState{state->index, next});
}

}  // namespace guestio::vhost
