// SPDX-License-Identifier: MIT
#include "guestio/virtio/packed_ring.h"

#include <bit>

#include "guestio/base/align.h"
#include "guestio/mem/recover.h"

namespace guestio::virtio {

Result<PackedRing> PackedRing::at(std::byte* descriptors, std::byte* driver_event,
                                  std::byte* device_event, std::uint32_t size) {
  if (!is_packed_queue_size(size)) return fail(ErrorKind::kInvalidArgument, "queue size", size);
  const auto ring_address = reinterpret_cast<std::uintptr_t>(descriptors);
  if (!is_aligned(ring_address, kPackedRingAlignment)) {
    return fail(ErrorKind::kMisaligned, "descriptor ring", ring_address, kPackedRingAlignment);
  }
  for (const std::byte* const event : {driver_event, device_event}) {
    const auto address = reinterpret_cast<std::uintptr_t>(event);
    if (!is_aligned(address, kPackedEventAlignment)) {
      return fail(ErrorKind::kMisaligned, "event area", address, kPackedEventAlignment);
    }
  }
  // Aligned, and integers only: any bytes are valid values.
  return PackedRing(
      reinterpret_cast<std::uint64_t*>(descriptors), reinterpret_cast<std::uint32_t*>(driver_event),
      reinterpret_cast<std::uint32_t*>(device_event), static_cast<std::uint16_t>(size));
}

bool PackedRing::try_load_address(std::uint16_t index, std::uint64_t& to) const noexcept {
  return mem::try_load(address(index), to);
}

bool PackedRing::try_store_address(std::uint16_t index, std::uint64_t from) const noexcept {
  return mem::try_store(address(index), from);
}

bool PackedRing::try_load_tail(std::uint16_t index, PackedTail& to) const noexcept {
  std::uint64_t word = 0;
  if (!mem::try_load_acquire(tail(index), word)) return false;
  to = std::bit_cast<PackedTail>(word);
  return true;
}

bool PackedRing::try_store_tail(std::uint16_t index, PackedTail from) const noexcept {
  return mem::try_store(tail(index), std::bit_cast<std::uint64_t>(from));
}

bool PackedRing::try_store_tail_release(std::uint16_t index, PackedTail from) const noexcept {
  return mem::try_store_release(tail(index), std::bit_cast<std::uint64_t>(from));
}

}  // namespace guestio::virtio
