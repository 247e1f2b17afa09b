// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/device_handlers.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "guestio/vhost/wire/async_message_io.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

/// The header of a configuration message, checked against the message's size.
Result<ConfigHeader> parse_config_header(const Message& message) {
  ConfigHeader header{};
  if (message.header.size < sizeof header) {
    return fail(Error::peer_fault("configuration message without a header", message.header.size));
  }
  std::memcpy(&header, message.bytes.data(), sizeof header);
  // Bytes after the header's size are ignored.
  if (header.size > kMaxConfig || message.header.size < sizeof header + header.size) {
    return fail(Error::peer_fault("more configuration bytes than the message holds", header.size));
  }
  return header;
}

}  // namespace

DeviceHandlers::DeviceHandlers(SessionContext& session) : session_(session) {
  session_.condition->report = [this] { report_needs_reset(); };
}

DeviceHandlers::~DeviceHandlers() { session_.condition->report = nullptr; }

Result<Reply> DeviceHandlers::handle_get_features() const {
  return Reply::of(session_.offered_features());
}

/// Replaces the whole set. A running ring keeps its features, except logging: a front-end switches
/// it while rings run.
task::Task<Result<Reply>> DeviceHandlers::handle_set_features() {
  const auto features = session_.payload_as<std::uint64_t>();
  if (!features) co_return fail(features.error());
  if ((*features & ~session_.offered_features()) != 0) {
    co_return fail(Error::peer_fault("SET_FEATURES beyond the offered features", *features));
  }
  const bool changes_logging = ((session_.features ^ *features) & kFeatureLogAll) != 0;
  session_.features = *features;
  enable_rings_without_protocol_features();
  if (changes_logging) {
    const auto updated = co_await session_.update_logs();
    if (!updated) co_return fail(updated.error());
  }
  co_return Reply::empty();
}

Result<Reply> DeviceHandlers::handle_get_protocol_features() const {
  return Reply::of(session_.offered_protocol_features());
}

Result<Reply> DeviceHandlers::handle_set_protocol_features() {
  const auto features = session_.payload_as<std::uint64_t>();
  if (!features) return fail(features.error());
  if ((*features & ~session_.offered_protocol_features()) != 0) {
    return fail(Error::peer_fault("SET_PROTOCOL_FEATURES beyond the offered features", *features));
  }
  constexpr ProtocolBits kInbandNeeds = kProtocolBackendReq | kProtocolReplyAck;
  if ((*features & kProtocolInbandNotifications) != 0 &&
      (*features & kInbandNeeds) != kInbandNeeds) {
    return fail(
        Error::peer_fault("INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK", *features));
  }
  session_.protocol_features = *features;
  return Reply::empty();
}

Result<Reply> DeviceHandlers::handle_get_queue_num() const {
  return Reply::of(std::uint64_t{session_.rings.size()});
}

Result<Reply> DeviceHandlers::handle_get_config() const {
  const auto header = parse_config_header(session_.message);
  if (!header) return fail(header.error());
  Reply reply = Reply::of(*header);
  reply.size += header->size;
  const auto to = std::span(reply.payload).subspan(sizeof(ConfigHeader), header->size);
  if (auto read = session_.parts.device.read_config(header->offset, to); !read) {
    return fail(read.error());
  }
  return reply;
}

Result<Reply> DeviceHandlers::handle_set_config() {
  const auto header = parse_config_header(session_.message);
  if (!header) return fail(header.error());
  if (header->flags != kConfigWritable && header->flags != kConfigMigration) {
    return fail(Error::peer_fault("unknown flags in SET_CONFIG", header->flags));
  }
  const auto from = session_.message.payload().subspan(sizeof(ConfigHeader), header->size);
  if (auto written = session_.parts.device.write_config(header->offset, from); !written) {
    return fail(written.error());
  }
  return Reply::empty();
}

Result<Reply> DeviceHandlers::handle_get_status() const {
  if (auto required = session_.require_feature(kProtocolStatus); !required) {
    return fail(required.error());
  }
  return Reply::of(std::uint64_t{session_.device_status()});
}

/// Drivers read the status after a configuration change notification (virtio 1.2, section 2.1.2).
void DeviceHandlers::report_needs_reset() noexcept {
  const bool is_watched = session_.has_feature(kProtocolStatus) &&
                          (session_.status & virtio::kStatusDriverOk) != 0 &&
                          session_.condition->needs_reset;
  if (is_watched) notify_config_changed();
}

/// The driver's steps (virtio 1.2, section 2.1). The front-end judges them all, except the reset by
/// status 0. It stops the rings but keeps their bases: QEMU before 8.1 asks for them afterwards.
task::Task<Result<Reply>> DeviceHandlers::handle_set_status() {
  if (auto required = session_.require_feature(kProtocolStatus); !required) {
    co_return fail(required.error());
  }
  const auto status = session_.payload_as<std::uint64_t>();
  if (!status) co_return fail(status.error());
  if (*status > 0xff) {
    co_return fail(Error::peer_fault("device status does not fit into 8 bits", *status));
  }
  session_.status = static_cast<std::uint8_t>(*status);
  if (session_.status == 0) {
    co_await stop_rings();
    session_.condition->needs_reset = false;
  }
  co_return Reply::empty();
}

task::Task<Result<Reply>> DeviceHandlers::handle_reset_device() {
  if (auto required = session_.require_feature(kProtocolResetDevice); !required) {
    co_return fail(required.error());
  }
  session_.status = 0;
  co_await stop_rings();
  for (const auto& ring : session_.rings) {
    co_await ring->reset();
    session_.relay.close(ring->index(), RingEvent::kCall);
    session_.relay.close(ring->index(), RingEvent::kError);
  }
  session_.condition->needs_reset = false;
  enable_rings_without_protocol_features();
  co_return Reply::empty();
}

/// Completes all chains in flight. The connection's state stays: features, memory, back channel.
task::Task<> DeviceHandlers::stop_rings() {
  for (const auto& ring : session_.rings) {
    (void)co_await ring->stop();
    session_.relay.close(ring->index(), RingEvent::kKick);
    co_await ring->set_enabled(false);
    if (session_.inflight) (void)session_.inflight->reset(ring->index());
  }
  enable_rings_without_protocol_features();
}

/// Without protocol features no message enables rings: they begin enabled.
void DeviceHandlers::enable_rings_without_protocol_features() {
  if ((session_.features & kFeatureProtocolFeatures) != 0) return;
  for (const auto& ring : session_.rings) ring->enable_by_default();
}

task::Task<Result<Reply>> DeviceHandlers::handle_set_backend_req_fd() {
  if (auto required = session_.require_feature(kProtocolBackendReq); !required) {
    co_return fail(required.error());
  }
  DescriptorList& descriptors = session_.message.descriptors;
  if (descriptors.size() != 1) {
    co_return fail(
        Error::peer_fault("SET_BACKEND_REQ_FD without exactly one descriptor", descriptors.size()));
  }
  UniqueFd socket = descriptors.take(0);
  if (!is_stream_socket(socket.get())) {
    co_return fail(
        Error::peer_fault("SET_BACKEND_REQ_FD descriptor is not a connected stream socket"));
  }
  co_await session_.back_channel.close();
  session_.back_channel.open(std::move(socket), session_.has_feature(kProtocolReplyAck)
                                                    ? Acknowledgement::kWanted
                                                    : Acknowledgement::kNone);
  for (const auto& ring : session_.inband) ring->resend();
  co_return Reply::empty();
}

bool DeviceHandlers::can_notify_config_change() const noexcept {
  return session_.has_feature(kProtocolBackendReq) && session_.has_feature(kProtocolConfig) &&
         session_.back_channel.is_usable();
}

void DeviceHandlers::notify_config_changed() noexcept {
  if (can_notify_config_change()) session_.back_channel.notify_config_changed();
}

}  // namespace guestio::vhost
