// SPDX-License-Identifier: MIT
#include "guestio/vhost/frontend_queue.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/virtio/layout.h"

namespace guestio::vhost {

namespace {

/// Where a ring's parts are, as the messages name them: descriptors, available ring or the driver's
/// event, used ring or the device's event.
struct RingPlaces {
  SharedPiece descriptors;
  SharedPiece avail;
  SharedPiece used;
};

Result<RingPlaces> allocate_ring(FrontendMemory& memory, std::uint16_t size) {
  // Each part begins with a page, so that no two queues share one. A packed ring's are smaller.
  const auto descriptors = memory.allocate(virtio::descriptor_table_bytes(size), kPageSize);
  if (!descriptors) return fail(descriptors.error());
  const auto avail = memory.allocate(virtio::avail_ring_bytes(size), kPageSize);
  if (!avail) return fail(avail.error());
  const auto used = memory.allocate(virtio::used_ring_bytes(size), kPageSize);
  if (!used) return fail(used.error());
  return RingPlaces{*descriptors, *avail, *used};
}

/// Formats the ring that was negotiated.
Result<virtio::DriverRing> make_ring(const RingPlaces& places, virtio::FeatureBits features,
                                     const FrontendQueue::Options& options) {
  if ((features & virtio::kFeatureRingPacked) != 0) {
    const auto parts = virtio::PackedRing::at(places.descriptors.host, places.avail.host,
                                              places.used.host, options.size);
    if (!parts) return fail(parts.error());
    const auto first = options.first_index ? virtio::PackedPosition::from_word(*options.first_index)
                                           : virtio::PackedPosition{};
    auto ring = virtio::PackedDriverQueue::create(*parts, features, first);
    if (!ring) return fail(ring.error());
    return virtio::DriverRing(std::move(*ring));
  }
  const auto parts = virtio::SplitRing::at(places.descriptors.host, places.avail.host,
                                           places.used.host, options.size);
  if (!parts) return fail(parts.error());
  auto ring = virtio::SplitDriverQueue::create(*parts, features, options.first_index.value_or(0));
  if (!ring) return fail(ring.error());
  return virtio::DriverRing(std::move(*ring));
}

VringAddress to_message(const RingPlaces& places, std::uint32_t index) {
  return {.index = index,
          .flags = 0,
          .descriptor = FrontendMemory::frontend_address(places.descriptors).raw(),
          .used = FrontendMemory::frontend_address(places.used).raw(),
          .available = FrontendMemory::frontend_address(places.avail).raw(),
          .log = 0};
}

/// The messages that start a queue, in the order that QEMU has.
Result<> announce(Frontend& frontend, const FrontendQueue::Options& options,
                  const RingPlaces& places, std::uint32_t base, int kick, int call) {
  const std::uint32_t index = options.index;
  auto told = frontend.set_vring_num(index, options.size);
  if (told) told = frontend.set_vring_base(index, base);
  if (told) told = frontend.set_vring_addr(to_message(places, index));
  if (told) told = frontend.set_vring_kick(index, kick);
  if (told) told = frontend.set_vring_call(index, call);
  // Without protocol features a queue begins enabled.
  if (told && (frontend.negotiated().features & kFeatureProtocolFeatures) != 0) {
    told = frontend.set_vring_enable(index, true);
  }
  return told;
}

}  // namespace

Result<FrontendQueue> FrontendQueue::start(Frontend& frontend, FrontendMemory& memory,
                                           Options options) {
  const auto places = allocate_ring(memory, options.size);
  if (!places) return fail(places.error());
  auto ring = make_ring(*places, frontend.negotiated().features, options);
  if (!ring) return fail(ring.error());
  UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd call(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!kick || !call) return fail_host("make an event descriptor");
  const auto told = announce(frontend, options, *places, ring->end_base(), kick.get(), call.get());
  if (!told) return fail(told.error());
  return FrontendQueue(std::move(*ring), std::move(kick), std::move(call), options.index);
}

std::size_t FrontendQueue::memory_for(std::uint16_t size) noexcept {
  return align_up(virtio::descriptor_table_bytes(size), kPageSize) +
         align_up(virtio::avail_ring_bytes(size), kPageSize) +
         align_up(virtio::used_ring_bytes(size), kPageSize);
}

Result<std::uint32_t> FrontendQueue::stop(Frontend& frontend) {
  return frontend.get_vring_base(index_);
}

Result<> FrontendQueue::kick() {
  const std::uint64_t one = 1;
  // A full counter (EAGAIN) means that a kick is pending anyway.
  if (::write(kick_.get(), &one, sizeof(one)) != sizeof(one) && errno != EAGAIN) {
    return fail_host("kick the backend");
  }
  return {};
}

Result<bool> FrontendQueue::wait_for_call(std::chrono::milliseconds limit) {
  pollfd poller{.fd = call_.get(), .events = POLLIN, .revents = 0};
  const int ready = ::poll(&poller, 1, static_cast<int>(limit.count()));
  if (ready < 0 && errno != EINTR) return fail_host("wait for the backend's call");
  if (ready <= 0) return false;
  std::uint64_t calls = 0;
  if (::read(call_.get(), &calls, sizeof(calls)) != sizeof(calls) && errno != EAGAIN) {
    return fail_host("take the backend's call");
  }
  return true;
}

}  // namespace guestio::vhost
