// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/takeover/state_json.h"

#include <utility>

#include "guestio/vhost/session/memory_table.h"

namespace guestio::app {

namespace {

using Json = nlohmann::json;

Json to_json(vhost::PartialMessage partial, TakeoverMessage& message) {
  Json bytes = Json::array();
  for (const std::byte byte : partial.bytes) bytes.push_back(std::to_integer<unsigned>(byte));
  Json descriptors = Json::array();
  for (UniqueFd& descriptor : partial.descriptors) {
    descriptors.push_back({{"fd", message.add(std::move(descriptor))}});
  }
  return {{"bytes", std::move(bytes)}, {"fds", std::move(descriptors)}};
}

vhost::PartialMessage read_partial(JsonFields fields) {
  constexpr std::size_t kLongest = sizeof(vhost::MessageHeader) + vhost::kMaxPayload;
  vhost::PartialMessage message;
  for (const Json& byte : fields.list("bytes", kLongest)) {
    if (!byte.is_number_unsigned() || byte.get<std::uint64_t>() > 0xff) fields.reject("bytes");
    message.bytes.push_back(
        static_cast<std::byte>(byte.is_number_unsigned() ? byte.get<std::uint64_t>() : 0));
  }
  for (const Json& item : fields.list("fds", vhost::kMaxDescriptors)) {
    message.descriptors.push_back(fields.nested(item, "descriptor").required_descriptor("fd"));
  }
  return message;
}

Json to_json(vhost::MemoryRegionState region, TakeoverMessage& message) {
  return {{"guest", region.description.guest_address},
          {"size", region.description.size},
          {"user", region.description.user_address},
          {"offset", region.description.mmap_offset},
          {"fd", message.add(std::move(region.file))}};
}

vhost::MemoryRegionState read_region(JsonFields fields) {
  vhost::MemoryRegion where{};
  where.guest_address = fields.number<std::uint64_t>("guest");
  where.size = fields.number<std::uint64_t>("size");
  where.user_address = fields.number<std::uint64_t>("user");
  where.mmap_offset = fields.number<std::uint64_t>("offset");
  return {where, fields.required_descriptor("fd")};
}

Json to_json(vhost::SessionState::Inflight record, TakeoverMessage& message) {
  return {{"size", record.description.mmap_size},
          {"offset", record.description.mmap_offset},
          {"queues", record.description.num_queues},
          {"queue_size", record.description.queue_size},
          {"packed", record.kind == virtio::RingKind::kPacked},
          {"fd", message.add(std::move(record.file))}};
}

vhost::SessionState::Inflight read_inflight(JsonFields fields) {
  vhost::InflightDescription where{};
  where.mmap_size = fields.number<std::uint64_t>("size");
  where.mmap_offset = fields.number<std::uint64_t>("offset");
  where.num_queues = fields.number<std::uint16_t>("queues");
  where.queue_size = fields.number<std::uint16_t>("queue_size");
  const bool is_packed = fields.flag("packed");
  return {where, is_packed ? virtio::RingKind::kPacked : virtio::RingKind::kSplit,
          fields.required_descriptor("fd")};
}

Json to_json(vhost::SessionState::Log log, TakeoverMessage& message) {
  return {{"size", log.description.size},
          {"offset", log.description.offset},
          {"fd", message.add(std::move(log.file))}};
}

vhost::SessionState::Log read_log(JsonFields fields) {
  const auto size = fields.number<std::uint64_t>("size");
  const auto offset = fields.number<std::uint64_t>("offset");
  return {{.size = size, .offset = offset}, fields.required_descriptor("fd")};
}

Json to_json(vhost::BackChannelState channel, TakeoverMessage& message) {
  return {{"fd", message.add(std::move(channel.socket))},
          {"wants_acknowledgement", channel.wants_acknowledgement},
          {"is_of_use", channel.is_usable},
          {"has_config_changed", channel.is_config_change_pending},
          {"awaits_answer", channel.awaits_acknowledgement},
          {"said", channel.awaited_request},
          {"answer", to_json(std::move(channel.partial_acknowledgement), message)},
          {"broken", channel.pending_errors}};
}

vhost::BackChannelState read_channel(JsonFields fields) {
  vhost::BackChannelState channel;
  channel.socket = fields.required_descriptor("fd");
  channel.wants_acknowledgement = fields.flag("wants_acknowledgement");
  channel.is_usable = fields.flag("is_of_use");
  channel.is_config_change_pending = fields.flag("has_config_changed");
  channel.awaits_acknowledgement = fields.flag("awaits_answer");
  channel.awaited_request = fields.number<std::uint32_t>("said");
  const Json* const answer = fields.object_or_null("answer");
  if (answer != nullptr)
    channel.partial_acknowledgement = read_partial(fields.nested(*answer, "reply"));
  for (const Json& ring : fields.list("broken", vhost::kMaxQueues)) {
    if (!ring.is_number_unsigned() || ring.get<std::uint64_t>() >= vhost::kMaxQueues) {
      fields.reject("broken");
      break;
    }
    channel.pending_errors.push_back(ring.get<std::uint16_t>());
  }
  return channel;
}

Json to_json(const std::optional<vhost::VringAddress>& addresses) {
  if (!addresses) return nullptr;
  return {{"flags", addresses->flags},
          {"descriptors", addresses->descriptor},
          {"available", addresses->available},
          {"used", addresses->used},
          {"log", addresses->log}};
}

vhost::VringAddress read_addresses(JsonFields fields, std::uint32_t index) {
  vhost::VringAddress addresses{};
  addresses.index = index;
  addresses.flags = fields.number<std::uint32_t>("flags");
  addresses.descriptor = fields.number<std::uint64_t>("descriptors");
  addresses.available = fields.number<std::uint64_t>("available");
  addresses.used = fields.number<std::uint64_t>("used");
  addresses.log = fields.number<std::uint64_t>("log");
  return addresses;
}

Json to_json(vhost::RingState ring, TakeoverMessage& message) {
  return {{"size", ring.size},
          {"base", ring.base},
          {"addresses", to_json(ring.addresses)},
          {"is_kick_known", ring.has_kick},
          {"is_enabled", ring.is_enabled},
          {"runs", ring.is_running},
          {"features", ring.features},
          {"kick", message.add(std::move(ring.kick))},
          {"call", message.add(std::move(ring.call))},
          {"error", message.add(std::move(ring.error))},
          {"inband_kick", message.add(std::move(ring.inband.kick))},
          {"inband_call", message.add(std::move(ring.inband.call))},
          {"inband_error", message.add(std::move(ring.inband.error))}};
}

vhost::RingState read_ring(JsonFields fields, std::uint32_t index) {
  vhost::RingState ring;
  ring.size = fields.number<std::uint32_t>("size");
  ring.base = fields.number<std::uint32_t>("base");
  const Json* const addresses = fields.object_or_null("addresses");
  if (addresses != nullptr) {
    ring.addresses = read_addresses(fields.nested(*addresses, "ring addresses"), index);
  }
  ring.has_kick = fields.flag("is_kick_known");
  ring.is_enabled = fields.flag("is_enabled");
  ring.is_running = fields.flag("runs");
  ring.features = fields.number<std::uint64_t>("features");
  ring.kick = fields.descriptor("kick");
  ring.call = fields.descriptor("call");
  ring.error = fields.descriptor("error");
  ring.inband.kick = fields.descriptor("inband_kick");
  ring.inband.call = fields.descriptor("inband_call");
  ring.inband.error = fields.descriptor("inband_error");
  return ring;
}

template <typename Part>
Json to_json_or_null(std::optional<Part> part, TakeoverMessage& message) {
  return part ? to_json(std::move(*part), message) : Json(nullptr);
}

}  // namespace

Json to_json(vhost::SessionState state, TakeoverMessage& message) {
  Json memory = Json::array();
  for (auto& region : state.memory) memory.push_back(to_json(std::move(region), message));
  Json rings = Json::array();
  for (auto& ring : state.rings) rings.push_back(to_json(std::move(ring), message));
  return {{"fd", message.add(std::move(state.socket))},
          {"features", state.features},
          {"protocol_features", state.protocol_features},
          {"status", state.status},
          {"memory", std::move(memory)},
          {"inflight", to_json_or_null(std::move(state.inflight), message)},
          {"log", to_json_or_null(std::move(state.log), message)},
          {"log_event", message.add(std::move(state.log_event))},
          {"channel", to_json_or_null(std::move(state.back_channel), message)},
          {"incoming", to_json(std::move(state.partial_message), message)},
          {"rings", std::move(rings)}};
}

vhost::SessionState read_session(JsonFields fields) {
  vhost::SessionState state;
  state.socket = fields.required_descriptor("fd");
  state.features = fields.number<std::uint64_t>("features");
  state.protocol_features = fields.number<std::uint64_t>("protocol_features");
  state.status = fields.number<std::uint8_t>("status");
  for (const Json& region : fields.list("memory", vhost::kMaxMemorySlots)) {
    state.memory.push_back(read_region(fields.nested(region, "memory region")));
  }
  if (const Json* const inflight = fields.object_or_null("inflight"); inflight != nullptr) {
    state.inflight = read_inflight(fields.nested(*inflight, "in-flight record"));
  }
  if (const Json* const log = fields.object_or_null("log"); log != nullptr) {
    state.log = read_log(fields.nested(*log, "dirty log"));
  }
  state.log_event = fields.descriptor("log_event");
  if (const Json* const channel = fields.object_or_null("channel"); channel != nullptr) {
    state.back_channel = read_channel(fields.nested(*channel, "backend channel"));
  }
  if (const Json* const incoming = fields.object_or_null("incoming"); incoming != nullptr) {
    state.partial_message = read_partial(fields.nested(*incoming, "message"));
  }
  std::uint32_t index = 0;
  for (const Json& ring : fields.list("rings", vhost::kMaxQueues)) {
    state.rings.push_back(read_ring(fields.nested(ring, "ring"), index++));
  }
  return state;
}

}  // namespace guestio::app
