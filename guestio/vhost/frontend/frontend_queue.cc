// SPDX-License-Identifier: MIT
#include "guestio/vhost/frontend/frontend_queue.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include "guestio/base/align.h"
#include "guestio/mem/recover.h"
#include "guestio/virtio/layout.h"
#include "guestio/virtio/split_ring.h"

namespace guestio::vhost {

Result<FrontendQueue::RingAreas> FrontendQueue::allocate(FrontendMemory& memory,
                                                         std::uint16_t size) {
  // Each part begins with a page: queues share no pages. Those of a packed ring are smaller.
  const auto descriptors = memory.allocate(virtio::descriptor_table_bytes(size), kPageSize);
  if (!descriptors) return fail(descriptors.error());
  const auto avail = memory.allocate(virtio::avail_ring_bytes(size), kPageSize);
  if (!avail) return fail(avail.error());
  const auto used = memory.allocate(virtio::used_ring_bytes(size), kPageSize);
  if (!used) return fail(used.error());
  return RingAreas{*descriptors, *avail, *used};
}

/// A ring of the negotiated kind.
Result<virtio::DriverRing> FrontendQueue::format(const RingAreas& areas,
                                                 virtio::FeatureBits features,
                                                 const Options& options) {
  if ((features & virtio::kFeatureRingPacked) != 0) {
    const auto parts = virtio::PackedRing::at(areas.descriptors.host, areas.avail.host,
                                              areas.used.host, options.size);
    if (!parts) return fail(parts.error());
    const auto first = options.first_index ? virtio::PackedPosition::from_word(*options.first_index)
                                           : virtio::PackedPosition{};
    auto ring = virtio::PackedDriverRing::create(*parts, features, first);
    if (!ring) return fail(ring.error());
    return virtio::DriverRing(std::move(*ring));
  }
  const auto parts = virtio::SplitRing::at(areas.descriptors.host, areas.avail.host,
                                           areas.used.host, options.size);
  if (!parts) return fail(parts.error());
  auto ring = virtio::SplitDriverRing::create(*parts, features, options.first_index.value_or(0));
  if (!ring) return fail(ring.error());
  return virtio::DriverRing(std::move(*ring));
}

VringAddress FrontendQueue::addresses() const noexcept {
  return {.index = options_.index,
          .flags = 0,
          .descriptor = FrontendMemory::frontend_address(areas_.descriptors).raw(),
          .used = FrontendMemory::frontend_address(areas_.used).raw(),
          .available = FrontendMemory::frontend_address(areas_.avail).raw(),
          .log = areas_.used.gpa.raw()};
}

Result<> FrontendQueue::set_logged(Frontend& frontend, bool is_logged) const {
  VringAddress address = addresses();
  address.flags = is_logged ? kVringLog : 0;
  return frontend.set_vring_addr(address);
}

Gpa FrontendQueue::used_ring_address() const noexcept {
  return ring_.is_packed() ? areas_.descriptors.gpa : areas_.used.gpa;
}

/// The messages that start a queue, in QEMU's order.
Result<> FrontendQueue::send_setup(Frontend& frontend, std::uint32_t base) const {
  const std::uint32_t index = options_.index;
  auto sent = frontend.set_vring_num(index, options_.size);
  if (sent) sent = frontend.set_vring_base(index, base);
  if (sent) sent = frontend.set_vring_addr(addresses());
  if (sent) sent = frontend.set_vring_kick(index, kick_.get());
  if (sent) sent = frontend.set_vring_call(index, call_.get());
  // Without protocol features a queue starts enabled.
  if (sent && (frontend.negotiated().features & kFeatureProtocolFeatures) != 0) {
    sent = frontend.set_vring_enable(index, true);
  }
  return sent;
}

Result<FrontendQueue> FrontendQueue::start(Frontend& frontend, FrontendMemory& memory,
                                           Options options) {
  const auto areas = allocate(memory, options.size);
  if (!areas) return fail(areas.error());
  auto ring = format(*areas, frontend.negotiated().features, options);
  if (!ring) return fail(ring.error());
  const std::uint32_t first_base = ring->end_base();
  FrontendQueue queue(std::move(*ring), *areas, options, first_base);
  queue.kick_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  queue.call_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!queue.kick_ || !queue.call_) return fail_host("make an event descriptor");
  const auto sent = queue.send_setup(frontend, queue.first_base_);
  if (!sent) return fail(sent.error());
  return queue;
}

Result<> FrontendQueue::resume(Frontend& frontend) const {
  if ((frontend.negotiated().features & virtio::kFeatureRingPacked) != 0) {
    // Only the record has the position of the backend. QEMU sends the first base as well.
    return send_setup(frontend, first_base_);
  }
  // A ring's parts are aligned to pages, and the index follows two bytes of flags.
  const auto* const used_index = reinterpret_cast<const std::uint16_t*>(
      areas_.used.host + offsetof(virtio::UsedHeader, index));
  std::uint16_t base = 0;
  if (!mem::try_load_acquire(used_index, base)) return virtio::fail_ring_access(used_index);
  return send_setup(frontend, base);
}

std::size_t FrontendQueue::memory_for(std::uint16_t size) noexcept {
  return align_up(virtio::descriptor_table_bytes(size), kPageSize) +
         align_up(virtio::avail_ring_bytes(size), kPageSize) +
         align_up(virtio::used_ring_bytes(size), kPageSize);
}

Result<std::uint32_t> FrontendQueue::stop(Frontend& frontend) {
  return frontend.get_vring_base(options_.index);
}

Result<> FrontendQueue::kick() {
  const std::uint64_t one = 1;
  // A full counter (EAGAIN): a kick is pending already.
  if (::write(kick_.get(), &one, sizeof(one)) != sizeof(one) && errno != EAGAIN) {
    return fail_host("kick the backend");
  }
  return {};
}

Result<bool> FrontendQueue::wait_for_call(std::chrono::milliseconds timeout) {
  pollfd poller{.fd = call_.get(), .events = POLLIN, .revents = 0};
  const int ready = ::poll(&poller, 1, static_cast<int>(timeout.count()));
  if (ready < 0 && errno != EINTR) return fail_host("wait for the backend's call");
  if (ready <= 0) return false;
  std::uint64_t calls = 0;
  if (::read(call_.get(), &calls, sizeof(calls)) != sizeof(calls) && errno != EAGAIN) {
    return fail_host("read the backend's call");
  }
  return true;
}

}  // namespace guestio::vhost
