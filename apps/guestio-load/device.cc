// SPDX-License-Identifier: MIT
#include "apps/guestio-load/device.h"

#include <bit>
#include <limits>
#include <span>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

namespace blk = virtio::blk;

namespace {

constexpr virtio::FeatureBits kSupportedFeatures =
    virtio::kFeatureVersion1 | virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx |
    blk::kFeatureSizeMax | blk::kFeatureSegMax | blk::kFeatureGeometry | blk::kFeatureReadOnly |
    blk::kFeatureBlockSize | blk::kFeatureFlush | blk::kFeatureTopology | blk::kFeatureConfigWce |
    blk::kFeatureMultiQueue | blk::kFeatureDiscard | blk::kFeatureWriteZeroes;

constexpr vhost::ProtocolBits kSupportedProtocol = vhost::kProtocolMq | vhost::kProtocolReplyAck |
                                                   vhost::kProtocolConfig |
                                                   vhost::kProtocolInflightShmfd;

}  // namespace

Result<Device> Device::open(const Target& target) {
  auto frontend = vhost::Frontend::connect(target.socket_path, {.deadline = target.deadline});
  if (!frontend) return fail(frontend.error());
  Device device(std::move(*frontend));
  virtio::FeatureBits wanted = kSupportedFeatures;
  if (!target.event_idx) wanted &= ~virtio::kFeatureEventIdx;
  if (!target.indirect) wanted &= ~virtio::kFeatureIndirectDesc;
  if (target.packed) wanted |= virtio::kFeatureRingPacked;
  const auto negotiated = device.frontend_.negotiate(wanted, kSupportedProtocol);
  if (!negotiated) return fail(negotiated.error());
  if (target.packed && !device.has(virtio::kFeatureRingPacked)) {
    return fail(ErrorKind::kUnsupported, "VIRTIO_F_RING_PACKED of the backend");
  }
  const auto read = device.read_config();
  if (!read) return fail(read.error());
  return device;
}

Result<> Device::enable_inflight_record(std::uint16_t queues, std::uint16_t queue_size) {
  if ((session().protocol & vhost::kProtocolInflightShmfd) == 0) {
    return fail(ErrorKind::kUnsupported, "in-flight record of the backend");
  }
  auto record = frontend_.get_inflight(queues, queue_size);
  if (!record) return fail(record.error());
  inflight_ = std::move(*record);
  return frontend_.set_inflight(*inflight_);
}

Result<> Device::reconnect(const Target& target, const vhost::FrontendMemory& memory) {
  auto frontend = vhost::Frontend::connect(target.socket_path, {.deadline = target.deadline});
  if (!frontend) return fail(frontend.error());
  const vhost::Frontend::Negotiated before = session();
  const auto after = frontend->negotiate(before.features, before.protocol);
  if (!after) return fail(after.error());
  if (after->features != before.features || after->protocol != before.protocol) {
    return fail(ErrorKind::kUnsupported, "features of the previous backend", after->features);
  }
  frontend_ = std::move(*frontend);
  auto done = frontend_.set_inflight(*inflight_);
  const auto region = memory.region();
  if (done) done = frontend_.set_mem_table(std::span(&region, 1));
  return done;
}

Result<> Device::read_config() {
  if ((session().protocol & vhost::kProtocolConfig) == 0) {
    return fail(ErrorKind::kUnsupported, "configuration space of the backend");
  }
  // The sizes of the space in past versions of the specification. Backends reject larger reads.
  constexpr std::size_t kSizes[] = {sizeof(blk::Config),
                                    offsetof(blk::Config, zoned),
                                    offsetof(blk::Config, max_secure_erase_sectors),
                                    offsetof(blk::Config, max_discard_sectors),
                                    offsetof(blk::Config, writeback),
                                    sizeof(blk::Config::capacity)};
  Result<> read;
  for (const std::size_t size : kSizes) {
    config_ = {};
    config_size_ = size;
    // Trivially copyable, without padding.
    read = frontend_.get_config(0, std::as_writable_bytes(std::span(&config_, 1)).first(size));
    if (read || read.error().kind != ErrorKind::kUnsupported) break;
  }
  if (!read) return read;
  const auto bytes = checked_mul(config_.capacity, Sector::kSize);
  if (!bytes) return fail(Error::peer_fault("capacity of the disk", config_.capacity));
  capacity_ = ByteCount(*bytes);
  if (has(blk::kFeatureBlockSize) &&
      (config_.blk_size < Sector::kSize || !std::has_single_bit(config_.blk_size))) {
    return fail(Error::peer_fault("block size of the disk", config_.blk_size));
  }
  return {};
}

std::uint32_t Device::block_size() const noexcept {
  return has(blk::kFeatureBlockSize) ? config_.blk_size : static_cast<std::uint32_t>(Sector::kSize);
}

std::uint32_t Device::max_segments() const noexcept {
  const bool limited = has(blk::kFeatureSegMax) && config_.seg_max != 0;
  return limited ? config_.seg_max : virtio::kMaxSplitQueueSize;
}

std::uint32_t Device::max_segment_bytes() const noexcept {
  const bool limited = has(blk::kFeatureSizeMax) && config_.size_max != 0;
  return limited ? config_.size_max : std::numeric_limits<std::uint32_t>::max();
}

}  // namespace guestio::load
