// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "guestio/virtio/layout.h"

/// Layout of a virtio block device: feature bits, configuration space, requests (virtio 1.2,
/// section 5.2, and 1.3 for zones). Little-endian. A sector is 512 bytes.
namespace guestio::virtio::blk {

inline constexpr FeatureBits kFeatureSizeMax = FeatureBits{1} << 1;
inline constexpr FeatureBits kFeatureSegMax = FeatureBits{1} << 2;
inline constexpr FeatureBits kFeatureGeometry = FeatureBits{1} << 4;
inline constexpr FeatureBits kFeatureReadOnly = FeatureBits{1} << 5;
inline constexpr FeatureBits kFeatureBlockSize = FeatureBits{1} << 6;
inline constexpr FeatureBits kFeatureScsi = FeatureBits{1} << 7;  // legacy
inline constexpr FeatureBits kFeatureFlush = FeatureBits{1} << 9;
inline constexpr FeatureBits kFeatureTopology = FeatureBits{1} << 10;
inline constexpr FeatureBits kFeatureConfigWce = FeatureBits{1} << 11;
inline constexpr FeatureBits kFeatureMultiQueue = FeatureBits{1} << 12;
inline constexpr FeatureBits kFeatureDiscard = FeatureBits{1} << 13;
inline constexpr FeatureBits kFeatureWriteZeroes = FeatureBits{1} << 14;
inline constexpr FeatureBits kFeatureLifetime = FeatureBits{1} << 15;
inline constexpr FeatureBits kFeatureSecureErase = FeatureBits{1} << 16;
inline constexpr FeatureBits kFeatureZoned = FeatureBits{1} << 17;

/// The device's own bits, lowest first.
inline constexpr std::array kFeatureNames = {
    FeatureName{kFeatureSizeMax, "VIRTIO_BLK_F_SIZE_MAX"},
    FeatureName{kFeatureSegMax, "VIRTIO_BLK_F_SEG_MAX"},
    FeatureName{kFeatureGeometry, "VIRTIO_BLK_F_GEOMETRY"},
    FeatureName{kFeatureReadOnly, "VIRTIO_BLK_F_RO"},
    FeatureName{kFeatureBlockSize, "VIRTIO_BLK_F_BLK_SIZE"},
    FeatureName{kFeatureScsi, "VIRTIO_BLK_F_SCSI"},
    FeatureName{kFeatureFlush, "VIRTIO_BLK_F_FLUSH"},
    FeatureName{kFeatureTopology, "VIRTIO_BLK_F_TOPOLOGY"},
    FeatureName{kFeatureConfigWce, "VIRTIO_BLK_F_CONFIG_WCE"},
    FeatureName{kFeatureMultiQueue, "VIRTIO_BLK_F_MQ"},
    FeatureName{kFeatureDiscard, "VIRTIO_BLK_F_DISCARD"},
    FeatureName{kFeatureWriteZeroes, "VIRTIO_BLK_F_WRITE_ZEROES"},
    FeatureName{kFeatureLifetime, "VIRTIO_BLK_F_LIFETIME"},
    FeatureName{kFeatureSecureErase, "VIRTIO_BLK_F_SECURE_ERASE"},
    FeatureName{kFeatureZoned, "VIRTIO_BLK_F_ZONED"},
};

/// The configuration space (5.2.4). A field is valid only if its feature was offered. A device may
/// have a shorter space.
struct Config {
  std::uint64_t capacity;  ///< sectors
  std::uint32_t size_max;
  std::uint32_t seg_max;
  struct Geometry {
    std::uint16_t cylinders;
    std::uint8_t heads;
    std::uint8_t sectors;
  } geometry;
  std::uint32_t blk_size;  ///< bytes
  struct Topology {
    std::uint8_t physical_block_exp;  ///< log2 of the logical blocks in a physical one
    std::uint8_t alignment_offset;    ///< logical blocks
    std::uint16_t min_io_size;        ///< logical blocks
    std::uint32_t opt_io_size;        ///< logical blocks
  } topology;
  std::uint8_t writeback;  ///< the only driver-writable field
  std::uint8_t unused0;
  std::uint16_t num_queues;
  std::uint32_t max_discard_sectors;
  std::uint32_t max_discard_seg;
  std::uint32_t discard_sector_alignment;
  std::uint32_t max_write_zeroes_sectors;
  std::uint32_t max_write_zeroes_seg;
  std::uint8_t write_zeroes_may_unmap;
  std::array<std::uint8_t, 3> unused1;
  std::uint32_t max_secure_erase_sectors;
  std::uint32_t max_secure_erase_seg;
  std::uint32_t secure_erase_sector_alignment;
  struct Zoned {
    std::uint32_t zone_sectors;
    std::uint32_t max_open_zones;
    std::uint32_t max_active_zones;
    std::uint32_t max_append_sectors;
    std::uint32_t write_granularity;
    std::uint8_t model;
    std::array<std::uint8_t, 3> unused2;
  } zoned;
};
static_assert(sizeof(Config) == 96);
static_assert(offsetof(Config, geometry) == 16 && offsetof(Config, blk_size) == 20 &&
              offsetof(Config, topology) == 24 && offsetof(Config, writeback) == 32 &&
              offsetof(Config, num_queues) == 34 && offsetof(Config, max_discard_sectors) == 36 &&
              offsetof(Config, max_write_zeroes_sectors) == 48 &&
              offsetof(Config, write_zeroes_may_unmap) == 56 &&
              offsetof(Config, max_secure_erase_sectors) == 60 && offsetof(Config, zoned) == 72 &&
              offsetof(Config, zoned.model) == 92);

/// The first field of a request (5.2.6). A driver may send any other number.
enum class RequestType : std::uint32_t {
  kIn = 0,   ///< read
  kOut = 1,  ///< write
  kFlush = 4,
  kFlushOut = 5,  ///< legacy: the same
  kGetId = 8,
  kGetLifetime = 10,
  kDiscard = 11,
  kWriteZeroes = 13,
  kSecureErase = 14,
  kZoneAppend = 15,
  kZoneReport = 16,
  kZoneOpen = 18,
  kZoneClose = 20,
  kZoneFinish = 22,
  kZoneReset = 24,
  kZoneResetAll = 26,
};

/// The start of a request's readable bytes.
struct RequestHeader {
  RequestType type;
  std::uint32_t reserved;
  std::uint64_t sector;
};
static_assert(sizeof(RequestHeader) == 16 && offsetof(RequestHeader, sector) == 8);

/// One range of a discard, write-zeroes or secure-erase request.
struct RangeSegment {
  std::uint64_t sector;
  std::uint32_t num_sectors;
  std::uint32_t flags;  ///< kRangeUnmap; others are reserved
};
static_assert(sizeof(RangeSegment) == 16 && offsetof(RangeSegment, num_sectors) == 8 &&
              offsetof(RangeSegment, flags) == 12);

inline constexpr std::uint32_t kRangeUnmap = 1;

/// The data of kGetLifetime.
struct Lifetime {
  std::uint16_t pre_eol_info;
  std::uint16_t device_lifetime_est_typ_a;
  std::uint16_t device_lifetime_est_typ_b;
};
static_assert(sizeof(Lifetime) == 6);

/// The data of kGetId: text padded with NUL; without one if it fills all bytes.
inline constexpr std::size_t kIdBytes = 20;

/// A request's last writable byte.
enum class Status : std::uint8_t {
  kOk = 0,
  kIoError = 1,
  kUnsupported = 2,
  kZoneInvalidCommand = 3,
  kZoneUnalignedWritePointer = 4,
  kZoneOpenResource = 5,
  kZoneActiveResource = 6,
};

}  // namespace guestio::virtio::blk
