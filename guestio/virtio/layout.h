// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

/// The bytes that a driver and a device share whatever the kind of device: feature bits and the
/// split ring (virtio 1.2, sections 2.7 and 6). The packed ring is in packed_layout.h. Everything
/// is little-endian, and so are the hosts that guestio runs on; the structs are the bytes.
namespace guestio::virtio {

static_assert(std::endian::native == std::endian::little, "ring memory is used as it stands");

/// A set of feature bits as it is offered, asked for and negotiated.
using FeatureBits = std::uint64_t;

// Bits 24 to 40 belong to the transport and the rings.
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

/// A bit and the name that the specification gives it.
struct FeatureName {
  FeatureBits bit;
  std::string_view name;
};

/// The transport's and the rings' bits, lowest first.
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
  std::uint16_t next;   ///< the entry that follows, if flags say so
};
static_assert(sizeof(Descriptor) == 16);
static_assert(offsetof(Descriptor, length) == 8 && offsetof(Descriptor, flags) == 12 &&
              offsetof(Descriptor, next) == 14);

inline constexpr std::uint16_t kDescriptorNext = 1;
inline constexpr std::uint16_t kDescriptorWrite = 2;  ///< the device writes it
inline constexpr std::uint16_t kDescriptorIndirect = 4;

/// What the available ring begins with (2.7.6); u16 heads[size] and u16 used_event follow.
struct AvailHeader {
  std::uint16_t flags;
  std::uint16_t index;
};
static_assert(sizeof(AvailHeader) == 4 && offsetof(AvailHeader, index) == 2);

/// In AvailHeader::flags: the driver wants no calls. Without kFeatureEventIdx only.
inline constexpr std::uint16_t kAvailNoInterrupt = 1;

/// One entry of the used ring.
struct UsedElement {
  std::uint32_t id;      ///< head of the chain
  std::uint32_t length;  ///< bytes that the device wrote into it
};
static_assert(sizeof(UsedElement) == 8 && offsetof(UsedElement, length) == 4);

/// What the used ring begins with (2.7.8); UsedElement[size] and u16 avail_event follow.
struct UsedHeader {
  std::uint16_t flags;
  std::uint16_t index;
};
static_assert(sizeof(UsedHeader) == 4 && offsetof(UsedHeader, index) == 2);

/// In UsedHeader::flags: the device wants no kicks. Without kFeatureEventIdx only.
inline constexpr std::uint16_t kUsedNoNotify = 1;

inline constexpr std::uint32_t kMaxSplitQueueSize = 32768;

/// A power of two that is not too large.
[[nodiscard]] constexpr bool is_split_queue_size(std::uint64_t size) noexcept {
  return std::has_single_bit(size) && size <= kMaxSplitQueueSize;
}

// What each part of a split ring of `size` entries takes, event words included, and how its guest
// physical address must be aligned (2.7).
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

/// Whether a peer that wants to hear of `event` is to be told, now that the index went from
/// `old_index` to `new_index` (2.7.10): did the index pass the event, modulo 2^16?
[[nodiscard]] constexpr bool needs_notification(std::uint16_t event, std::uint16_t old_index,
                                                std::uint16_t new_index) noexcept {
  return static_cast<std::uint16_t>(new_index - event - 1) <
         static_cast<std::uint16_t>(new_index - old_index);
}

}  // namespace guestio::virtio
