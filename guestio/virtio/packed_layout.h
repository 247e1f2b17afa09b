// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "guestio/virtio/layout.h"

/// Layout of a packed ring (virtio 1.2, section 2.8), and the arithmetic of its positions.
namespace guestio::virtio {

/// One entry of the descriptor ring, or of an indirect table (2.8.13). The device overwrites it
/// with the used descriptor.
struct PackedDescriptor {
  std::uint64_t address;  ///< guest physical
  std::uint32_t length;   ///< in a used descriptor: bytes written by the device
  std::uint16_t id;       ///< of the buffer; valid in the last descriptor of a chain
  std::uint16_t flags;    ///< kDescriptor… and kPacked…
};
static_assert(sizeof(PackedDescriptor) == 16 && sizeof(PackedDescriptor) == sizeof(Descriptor));
static_assert(offsetof(PackedDescriptor, length) == 8 && offsetof(PackedDescriptor, id) == 12 &&
              offsetof(PackedDescriptor, flags) == 14);

/// The half of a descriptor with the ownership flags. Loaded and stored in one access, so that
/// flags and the rest agree.
struct PackedTail {
  std::uint32_t length;
  std::uint16_t id;
  std::uint16_t flags;
};
static_assert(sizeof(PackedTail) == 8);

inline constexpr std::uint16_t kPackedAvail = 1 << 7;
inline constexpr std::uint16_t kPackedUsed = 1 << 15;

/// Event suppression of one side (2.8.14).
struct PackedEvent {
  std::uint16_t position;  ///< PackedPosition::to_word()
  std::uint16_t flags;     ///< kPackedEvent…
};
static_assert(sizeof(PackedEvent) == 4);

inline constexpr std::uint16_t kPackedEventEnable = 0;
inline constexpr std::uint16_t kPackedEventDisable = 1;
inline constexpr std::uint16_t kPackedEventDescriptor = 2;  ///< with kFeatureEventIdx only
inline constexpr std::uint16_t kPackedEventMask = 3;

inline constexpr std::uint32_t kMaxPackedQueueSize = 32768;
inline constexpr std::size_t kPackedRingAlignment = 16;
inline constexpr std::size_t kPackedEventAlignment = 4;

/// Any number up to the limit; not only powers of two.
[[nodiscard]] constexpr bool is_packed_queue_size(std::uint64_t size) noexcept {
  return size != 0 && size <= kMaxPackedQueueSize;
}
[[nodiscard]] constexpr std::size_t packed_ring_bytes(std::size_t size) noexcept {
  return sizeof(PackedDescriptor) * size;
}

/// A position in a packed ring: the index, and the wrap counter, which flips at the end of the
/// ring.
struct PackedPosition {
  std::uint16_t index = 0;
  bool wrap = true;  ///< the wrap counter; both sides begin with 1

  /// As in event areas and vhost-user messages: 15 bits of index, one of the counter.
  [[nodiscard]] constexpr std::uint16_t to_word() const noexcept {
    return static_cast<std::uint16_t>(index | (wrap ? 1 << 15 : 0));
  }
  [[nodiscard]] static constexpr PackedPosition from_word(std::uint16_t word) noexcept {
    return {.index = static_cast<std::uint16_t>(word & 0x7fff), .wrap = (word >> 15) != 0};
  }
  /// `count` entries later in a ring of `size`. Requires: count <= size, index < size.
  [[nodiscard]] constexpr PackedPosition plus(std::uint32_t count,
                                              std::uint32_t size) const noexcept {
    const std::uint32_t sum = index + count;
    if (sum < size) return {static_cast<std::uint16_t>(sum), wrap};
    return {static_cast<std::uint16_t>(sum - size), !wrap};
  }
  /// Entries between two positions, up to `size`.
  [[nodiscard]] constexpr std::uint32_t minus(PackedPosition earlier,
                                              std::uint32_t size) const noexcept {
    return wrap == earlier.wrap ? index - earlier.index : index + size - earlier.index;
  }
  /// The flags of an available, or a used, descriptor here.
  [[nodiscard]] constexpr std::uint16_t avail_flags() const noexcept {
    return wrap ? kPackedAvail : kPackedUsed;
  }
  [[nodiscard]] constexpr std::uint16_t used_flags() const noexcept {
    return wrap ? kPackedAvail | kPackedUsed : 0;
  }
  [[nodiscard]] constexpr bool is_available(std::uint16_t flags) const noexcept {
    return (flags & (kPackedAvail | kPackedUsed)) == avail_flags();
  }
  [[nodiscard]] constexpr bool is_used(std::uint16_t flags) const noexcept {
    return (flags & (kPackedAvail | kPackedUsed)) == used_flags();
  }

  friend bool operator==(const PackedPosition&, const PackedPosition&) = default;
};

/// Whether the peer that set `event` needs a notification after `count` entries up to `now`
/// (2.8.10): with kPackedEventDescriptor, they include the entry of the event.
[[nodiscard]] constexpr bool needs_notification(PackedEvent event, FeatureBits features,
                                                PackedPosition now, std::uint32_t count,
                                                std::uint32_t size) noexcept {
  const std::uint16_t kind = event.flags & kPackedEventMask;
  if (kind == kPackedEventDisable) return false;
  // Not negotiated, or unknown: one notification too many does no harm.
  if (kind != kPackedEventDescriptor || (features & kFeatureEventIdx) == 0) return true;
  const auto named = PackedPosition::from_word(event.position);
  // Both relative to the current lap: the previous one is below zero.
  const auto index =
      static_cast<std::uint16_t>(named.wrap == now.wrap ? named.index : named.index - size);
  return needs_notification(index, static_cast<std::uint16_t>(now.index - count), now.index);
}

}  // namespace guestio::virtio
