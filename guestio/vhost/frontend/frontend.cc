// SPDX-License-Identifier: MIT
#include "guestio/vhost/frontend/frontend.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::vhost {

namespace {

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span(&value, 1));
}

/// A payload built from a header and further values.
template <std::size_t kCapacity>
class PayloadBuilder {
 public:
  template <typename T>
  void add(const T& value) {
    add_bytes(bytes_of(value));
  }
  void add_bytes(std::span<const std::byte> more) {
    GUESTIO_CHECK(more.size() <= bytes_.size() - size_, "a payload that fits");
    std::ranges::copy(more, bytes_.begin() + static_cast<std::ptrdiff_t>(size_));
    size_ += more.size();
  }
  [[nodiscard]] std::span<const std::byte> payload() const {
    return std::span(bytes_).first(size_);
  }

 private:
  std::array<std::byte, kCapacity> bytes_{};
  std::size_t size_ = 0;
};

}  // namespace

Result<Frontend> Frontend::connect(const std::string& path, Options options) {
  auto socket = MessageSocket::connect(path);
  if (!socket) return fail(socket.error());
  return Frontend(std::move(*socket), options);
}

Result<Frontend::Negotiated> Frontend::negotiate(std::uint64_t wanted_features,
                                                 ProtocolBits wanted_protocol) {
  const auto offered = get_features();
  if (!offered) return fail(offered.error());
  negotiated_ = {};
  negotiated_.offered_features = *offered;
  if ((*offered & kFeatureProtocolFeatures) != 0) {
    const auto protocol = get_protocol_features();
    if (!protocol) return fail(protocol.error());
    negotiated_.offered_protocol = *protocol;
    const auto set = set_protocol_features(*protocol & wanted_protocol);
    if (!set) return fail(set.error());
  }
  if (const auto owner = set_owner(); !owner) return fail(owner.error());
  if ((negotiated_.protocol & kProtocolMq) != 0) {
    const auto queues = get_queue_num();
    if (!queues) return fail(queues.error());
    negotiated_.queues = *queues;
  }
  // VHOST_F_LOG_ALL follows once there is a log.
  const std::uint64_t wanted = (wanted_features & ~kFeatureLogAll) | kFeatureProtocolFeatures;
  const auto set = set_features(*offered & wanted);
  if (!set) return fail(set.error());
  return negotiated_;
}

Result<> Frontend::set_owner() {
  return send_message(std::to_underlying(FrontendRequest::kSetOwner));
}

Result<> Frontend::reset_owner() {
  return send_message(std::to_underlying(FrontendRequest::kResetOwner));
}

Result<std::uint64_t> Frontend::get_features() { return get_number(FrontendRequest::kGetFeatures); }

Result<> Frontend::set_features(std::uint64_t features) {
  const auto set = set_number(FrontendRequest::kSetFeatures, features);
  if (set) negotiated_.features = features;
  return set;
}

Result<ProtocolBits> Frontend::get_protocol_features() {
  return get_number(FrontendRequest::kGetProtocolFeatures);
}

Result<> Frontend::set_protocol_features(ProtocolBits features) {
  const auto set = set_number(FrontendRequest::kSetProtocolFeatures, features);
  if (set) negotiated_.protocol = features;
  return set;
}

Result<std::uint64_t> Frontend::get_queue_num() {
  return get_number(FrontendRequest::kGetQueueNum);
}

Result<> Frontend::get_config(std::uint32_t offset, std::span<std::byte> to) {
  GUESTIO_CHECK(to.size() <= kMaxConfig, "a range of the configuration space");
  const ConfigHeader header{offset, static_cast<std::uint32_t>(to.size()), kConfigWritable};
  PayloadBuilder<sizeof(ConfigHeader) + kMaxConfig> request;
  request.add(header);
  std::ranges::fill(to, std::byte{0});
  request.add_bytes(to);  // the request is as long as its reply
  Message reply;
  const auto sent = send_and_receive(std::to_underlying(FrontendRequest::kGetConfig),
                                     request.payload(), {}, reply);
  if (!sent) return sent;
  if (reply.header.size == 0) {
    return fail(ErrorKind::kUnsupported, "this range of the configuration space");
  }
  if (reply.header.size != sizeof(ConfigHeader) + to.size()) {
    return fail(Error::peer_fault("invalid size of the reply to GET_CONFIG", reply.header.size));
  }
  std::ranges::copy(reply.payload().subspan(sizeof(ConfigHeader)), to.begin());
  return {};
}

Result<> Frontend::set_config(std::uint32_t offset, std::span<const std::byte> from,
                              std::uint32_t flags) {
  PayloadBuilder<sizeof(ConfigHeader) + kMaxConfig> request;
  request.add(ConfigHeader{offset, static_cast<std::uint32_t>(from.size()), flags});
  request.add_bytes(from);
  return send_message(std::to_underlying(FrontendRequest::kSetConfig), request.payload());
}

Result<> Frontend::set_mem_table(std::span<const Region> regions) {
  PayloadBuilder<sizeof(MemoryTableHeader) + kMaxRegions * sizeof(MemoryRegion)> request;
  std::array<int, kMaxRegions> descriptors{};
  request.add(MemoryTableHeader{static_cast<std::uint32_t>(regions.size()), 0});
  for (std::size_t i = 0; i < regions.size(); ++i) {
    request.add(regions[i].where);
    descriptors[i] = regions[i].fd;
  }
  return send_message(std::to_underlying(FrontendRequest::kSetMemTable), request.payload(),
                      std::span(descriptors).first(regions.size()));
}

Result<> Frontend::set_vring_num(std::uint32_t queue, std::uint32_t size) {
  return send_vring_state(FrontendRequest::kSetVringNum, queue, size);
}

Result<> Frontend::set_vring_base(std::uint32_t queue, std::uint32_t base) {
  return send_vring_state(FrontendRequest::kSetVringBase, queue, base);
}

Result<std::uint32_t> Frontend::get_vring_base(std::uint32_t queue) {
  Message reply;
  const auto sent = send_and_receive(std::to_underlying(FrontendRequest::kGetVringBase),
                                     bytes_of(VringState{queue, 0}), {}, reply);
  if (!sent) return fail(sent.error());
  const auto state = reply.as<VringState>();
  if (!state || state->index != queue) {
    return fail(Error::peer_fault("invalid reply to GET_VRING_BASE", reply.header.size));
  }
  return state->num;
}

Result<> Frontend::set_vring_addr(const VringAddress& address) {
  return send_message(std::to_underlying(FrontendRequest::kSetVringAddr), bytes_of(address));
}

Result<Frontend::Inflight> Frontend::get_inflight(std::uint16_t queues, std::uint16_t queue_size) {
  const InflightDescription wanted{
      .mmap_size = 0, .mmap_offset = 0, .num_queues = queues, .queue_size = queue_size};
  Message reply;
  const auto sent = send_and_receive(std::to_underlying(FrontendRequest::kGetInflightFd),
                                     bytes_of(wanted), {}, reply);
  if (!sent) return fail(sent.error());
  const auto where = reply.as<InflightDescription>();
  if (!where || reply.descriptors.size() != 1) {
    return fail(Error::peer_fault("invalid reply to GET_INFLIGHT_FD", reply.header.size));
  }
  return Inflight{*where, reply.descriptors.take(0)};
}

Result<> Frontend::set_inflight(const Inflight& inflight) {
  const int file = inflight.file.get();
  return send_message(std::to_underlying(FrontendRequest::kSetInflightFd), bytes_of(inflight.where),
                      std::span(&file, 1));
}

Result<> Frontend::set_backend_req_fd(int socket) {
  return send_message(std::to_underlying(FrontendRequest::kSetBackendReqFd), {},
                      std::span(&socket, 1));
}

Result<> Frontend::set_log_base(const LogDescription& where, int file) {
  Message reply;
  const auto sent = send_and_receive(std::to_underlying(FrontendRequest::kSetLogBase),
                                     bytes_of(where), std::span(&file, 1), reply);
  if (!sent) return sent;
  if (reply.as<std::uint64_t>().value_or(0) != 0) {
    return fail(Error::peer_fault("backend refused SET_LOG_BASE"));
  }
  return {};
}

Result<> Frontend::set_log_fd(int event) {
  return send_message(std::to_underlying(FrontendRequest::kSetLogFd), {}, std::span(&event, 1));
}

Result<> Frontend::set_status(std::uint8_t status) {
  return set_number(FrontendRequest::kSetStatus, status);
}

Result<std::uint64_t> Frontend::get_status() { return get_number(FrontendRequest::kGetStatus); }

Result<> Frontend::reset_device() {
  return send_message(std::to_underlying(FrontendRequest::kResetDevice));
}

Result<> Frontend::set_vring_kick(std::uint32_t queue, std::optional<int> fd) {
  return send_fd(FrontendRequest::kSetVringKick, queue, fd);
}

Result<> Frontend::set_vring_call(std::uint32_t queue, std::optional<int> fd) {
  return send_fd(FrontendRequest::kSetVringCall, queue, fd);
}

Result<> Frontend::set_vring_err(std::uint32_t queue, std::optional<int> fd) {
  return send_fd(FrontendRequest::kSetVringErr, queue, fd);
}

Result<> Frontend::set_vring_enable(std::uint32_t queue, bool enabled) {
  return send_vring_state(FrontendRequest::kSetVringEnable, queue, enabled ? 1 : 0);
}

Result<> Frontend::send_message(std::uint32_t request, std::span<const std::byte> payload,
                                std::span<const int> descriptors) {
  const bool needs_ack = (negotiated_.protocol & kProtocolReplyAck) != 0;
  const Deadline until = deadline();
  const auto sent = socket_.send(request, kMessageVersion | (needs_ack ? kMessageNeedReply : 0),
                                 payload, descriptors, until);
  if (!sent || !needs_ack) return sent;
  Message reply;
  const auto received = receive_reply(request, until, reply);
  if (!received) return received;
  const auto code = reply.as<std::uint64_t>();
  if (!code)
    return fail(Error::peer_fault("invalid size of an acknowledgement", reply.header.size));
  if (*code != 0) return fail(Error::peer_fault("backend refused the message", *code));
  return {};
}

Result<> Frontend::send_and_receive(std::uint32_t request, std::span<const std::byte> payload,
                                    std::span<const int> descriptors, Message& reply) {
  const Deadline until = deadline();
  const auto sent = socket_.send(request, kMessageVersion, payload, descriptors, until);
  if (!sent) return sent;
  return receive_reply(request, until, reply);
}

Result<> Frontend::receive_reply(std::uint32_t request, Deadline deadline, Message& reply) {
  const auto received = socket_.receive(reply, deadline);
  if (!received) return received;
  if ((reply.header.flags & kMessageReply) == 0 || reply.header.request != request) {
    return fail(Error::peer_fault("reply to another message", reply.header.request));
  }
  return {};
}

Result<std::uint64_t> Frontend::get_number(FrontendRequest request) {
  Message reply;
  const auto sent = send_and_receive(std::to_underlying(request), {}, {}, reply);
  if (!sent) return fail(sent.error());
  const auto number = reply.as<std::uint64_t>();
  if (!number) return fail(Error::peer_fault("invalid size of a reply", reply.header.size));
  return *number;
}

Result<> Frontend::set_number(FrontendRequest request, std::uint64_t number) {
  return send_message(std::to_underlying(request), bytes_of(number));
}

Result<> Frontend::send_vring_state(FrontendRequest request, std::uint32_t queue,
                                    std::uint32_t number) {
  return send_message(std::to_underlying(request), bytes_of(VringState{queue, number}));
}

Result<> Frontend::send_fd(FrontendRequest request, std::uint32_t queue, std::optional<int> fd) {
  const std::uint64_t index = queue & kVringIndexMask;
  if (!fd) return send_message(std::to_underlying(request), bytes_of(index | kVringNoFd));
  return send_message(std::to_underlying(request), bytes_of(index), std::span(&*fd, 1));
}

}  // namespace guestio::vhost
