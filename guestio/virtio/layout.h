// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

/// Layout shared by driver and device, for all kinds of device: feature bits and the split ring
/// (virtio 1.2, sections 2.7 and 6). packed_layout.h has the packed ring. All of it is
/// little-endian, as are the hosts of guestio: the structs are the bytes.
namespace guestio::virtio {

static_assert(std::endian::native == std::endian::little, "ring memory is used without conversion");

/// A set of feature bits.
using FeatureBits = std::uint64_t;

// Bits 24 to 40: transport and rings.
inline constexpr FeatureBits kFeatureNotifyOnEmpty = FeatureBits{1} << 24;  // legacy
inline constexpr FeatureBits kFeatureAnyLayout = FeatureBits{1} << 27;      // legacy
inline constexpr FeatureBits kFeatureIndirectDesc = FeatureBits{1} << 28;
inline constexpr FeatureBits kFeatureEventIdx = FeatureBits{1} << 29;
inline constexpr FeatureBits kFeatureVersion1 = FeatureBits{1} << 32;
inline constexpr FeatureBits kFeatureAccessPlatform = FeatureBits{1} << 33;
inline constexpr FeatureBits kFeatureRingPacked = FeatureBits{1} << 34;
inline constexpr FeatureBits kFeatureInOrder = FeatureBits{1} << 35;
inline constexpr FeatureBits kFeatureOrderPlatform = FeatureBits{1} << 36;
inline constexpr FeatureBits kFeatureSrIov = FeatureBits{1} << 37;
inline constexpr FeatureBits kFeatureNotificationData = FeatureBits{1} << 38;
inline constexpr FeatureBits kFeatureNotifConfigData = FeatureBits{1} << 39;
inline constexpr FeatureBits kFeatureRingReset = FeatureBits{1} << 40;

enum class RingKind : std::uint8_t { kSplit, kPacked };

/// The kind of ring that `features` negotiate.
[[nodiscard]] constexpr RingKind ring_kind(FeatureBits features) noexcept {
  return (features & kFeatureRingPacked) != 0 ? RingKind::kPacked : RingKind::kSplit;
}

/// Bits of a device's status (2.1).
inline constexpr std::uint8_t kStatusDriverOk = 4;
inline constexpr std::uint8_t kStatusNeedsReset = 64;

/// A bit and its name in the specification.
struct FeatureName {
  FeatureBits bit;
  std::string_view name;
};

/// The bits of transport and rings, lowest first.
inline constexpr std::array kRingFeatureNames = {
    FeatureName{kFeatureNotifyOnEmpty, "VIRTIO_F_NOTIFY_ON_EMPTY"},
    FeatureName{kFeatureAnyLayout, "VIRTIO_F_ANY_LAYOUT"},
    FeatureName{kFeatureIndirectDesc, "VIRTIO_F_INDIRECT_DESC"},
    FeatureName{kFeatureEventIdx, "VIRTIO_F_EVENT_IDX"},
    FeatureName{kFeatureVersion1, "VIRTIO_F_VERSION_1"},
    FeatureName{kFeatureAccessPlatform, "VIRTIO_F_ACCESS_PLATFORM"},
    FeatureName{kFeatureRingPacked, "VIRTIO_F_RING_PACKED"},
    FeatureName{kFeatureInOrder, "VIRTIO_F_IN_ORDER"},
    FeatureName{kFeatureOrderPlatform, "VIRTIO_F_ORDER_PLATFORM"},
    FeatureName{kFeatureSrIov, "VIRTIO_F_SR_IOV"},
    FeatureName{kFeatureNotificationData, "VIRTIO_F_NOTIFICATION_DATA"},
    FeatureName{kFeatureNotifConfigData, "VIRTIO_F_NOTIF_CONFIG_DATA"},
    FeatureName{kFeatureRingReset, "VIRTIO_F_RING_RESET"},
};

/// One entry of a descriptor table, direct or indirect (2.7.5).
struct Descriptor {
  std::uint64_t address;  ///< guest physical
  std::uint32_t length;
  std::uint16_t flags;  ///< kDescriptor…
  std::uint16_t next;   ///< entry, with kDescriptorNext
};
static_assert(sizeof(Descriptor) == 16);
static_assert(offsetof(Descriptor, length) == 8 && offsetof(Descriptor, flags) == 12 &&
              offsetof(Descriptor, next) == 14);

inline constexpr std::uint16_t kDescriptorNext = 1;
inline constexpr std::uint16_t kDescriptorWrite = 2;  ///< device-writable
inline constexpr std::uint16_t kDescriptorIndirect = 4;

/// The start of the available ring (2.7.6). u16 heads[size] and u16 used_event follow.
struct AvailHeader {
  std::uint16_t flags;
  std::uint16_t index;
};
static_assert(sizeof(AvailHeader) == 4 && offsetof(AvailHeader, index) == 2);

/// In AvailHeader::flags: calls are suppressed. Without kFeatureEventIdx only.
inline constexpr std::uint16_t kAvailNoInterrupt = 1;

/// One entry of the used ring.
struct UsedElement {
  std::uint32_t id;      ///< head of the chain
  std::uint32_t length;  ///< bytes written by the device
};
static_assert(sizeof(UsedElement) == 8 && offsetof(UsedElement, length) == 4);

/// The start of the used ring (2.7.8). UsedElement[size] and u16 avail_event follow.
struct UsedHeader {
  std::uint16_t flags;
  std::uint16_t index;
};
static_assert(sizeof(UsedHeader) == 4 && offsetof(UsedHeader, index) == 2);

/// In UsedHeader::flags: kicks are suppressed. Without kFeatureEventIdx only.
inline constexpr std::uint16_t kUsedNoNotify = 1;

inline constexpr std::uint32_t kMaxSplitQueueSize = 32768;

/// A power of two up to the limit.
[[nodiscard]] constexpr bool is_split_queue_size(std::uint64_t size) noexcept {
  return std::has_single_bit(size) && size <= kMaxSplitQueueSize;
}

// Bytes of each part of a split ring of `size` entries, event words included, and the alignment of
// its guest physical address (2.7).
inline constexpr std::size_t kDescriptorTableAlignment = 16;
inline constexpr std::size_t kAvailRingAlignment = 2;
inline constexpr std::size_t kUsedRingAlignment = 4;
[[nodiscard]] constexpr std::size_t descriptor_table_bytes(std::size_t size) noexcept {
  return sizeof(Descriptor) * size;
}
[[nodiscard]] constexpr std::size_t avail_ring_bytes(std::size_t size) noexcept {
  return sizeof(AvailHeader) + sizeof(std::uint16_t) * (size + 1);
}
[[nodiscard]] constexpr std::size_t used_ring_bytes(std::size_t size) noexcept {
  return sizeof(UsedHeader) + sizeof(UsedElement) * size + sizeof(std::uint16_t);
}

/// Whether the peer that set `event` needs a notification after the index went from `old_index` to
/// `new_index` (2.7.10): the index passed the event, modulo 2^16.
[[nodiscard]] constexpr bool needs_notification(std::uint16_t event, std::uint16_t old_index,
                                                std::uint16_t new_index) noexcept {
  return static_cast<std::uint16_t>(new_index - event - 1) <
         static_cast<std::uint16_t>(new_index - old_index);
}

}  // namespace guestio::virtio
