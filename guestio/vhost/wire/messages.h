// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

/// The vhost-user wire format (QEMU, docs/interop/vhost-user.rst). A message is a header and `size`
/// bytes of payload on a stream socket, with file descriptors as ancillary data. Numbers have the
/// byte order of the machine.
namespace guestio::vhost {

struct MessageHeader {
  std::uint32_t request;
  std::uint32_t flags;  ///< kMessage…
  std::uint32_t size;   ///< of the payload
};
static_assert(sizeof(MessageHeader) == 12);

inline constexpr std::uint32_t kMessageVersionMask = 3;
inline constexpr std::uint32_t kMessageVersion = 1;
inline constexpr std::uint32_t kMessageReply = 1 << 2;
inline constexpr std::uint32_t kMessageNeedReply = 1 << 3;

/// The largest payload of a known message; a header with a larger size is refused.
inline constexpr std::size_t kMaxPayload = 4096;
/// File descriptors of one message: one for each region of the largest memory table.
inline constexpr std::size_t kMaxDescriptors = 8;
inline constexpr std::size_t kMaxRegions = 8;
/// Queue indices have 8 bits in SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
inline constexpr std::size_t kMaxQueues = 256;

/// Virtio feature bit: protocol features exist. Never shown to a guest.
inline constexpr std::uint64_t kFeatureProtocolFeatures = std::uint64_t{1} << 30;
/// Virtio feature bit: dirty logging is on.
inline constexpr std::uint64_t kFeatureLogAll = std::uint64_t{1} << 26;

/// Requests of the front-end.
enum class FrontendRequest : std::uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,  ///< deprecated
  kSetMemTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSendRarp = 19,
  kNetSetMtu = 20,
  kSetBackendReqFd = 21,
  kIotlbMsg = 22,
  kSetVringEndian = 23,
  kGetConfig = 24,
  kSetConfig = 25,
  kCreateCryptoSession = 26,
  kCloseCryptoSession = 27,
  kPostcopyAdvise = 28,
  kPostcopyListen = 29,
  kPostcopyEnd = 30,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kGpuSetSocket = 33,
  kResetDevice = 34,
  kVringKick = 35,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
  kSetStatus = 39,
  kGetStatus = 40,
  kGetSharedObject = 41,
  kSetDeviceStateFd = 42,
  kCheckDeviceState = 43,
};

/// Requests of the backend, over the socket of SET_BACKEND_REQ_FD.
enum class BackendRequest : std::uint32_t {
  kIotlbMsg = 1,
  kConfigChangeMsg = 2,
  kVringHostNotifierMsg = 3,
  kVringCall = 4,
  kVringErr = 5,
};

/// A set of protocol features.
using ProtocolBits = std::uint64_t;

inline constexpr ProtocolBits kProtocolMq = ProtocolBits{1} << 0;
inline constexpr ProtocolBits kProtocolLogShmfd = ProtocolBits{1} << 1;
inline constexpr ProtocolBits kProtocolRarp = ProtocolBits{1} << 2;
inline constexpr ProtocolBits kProtocolReplyAck = ProtocolBits{1} << 3;
inline constexpr ProtocolBits kProtocolMtu = ProtocolBits{1} << 4;
inline constexpr ProtocolBits kProtocolBackendReq = ProtocolBits{1} << 5;
inline constexpr ProtocolBits kProtocolCrossEndian = ProtocolBits{1} << 6;
inline constexpr ProtocolBits kProtocolCryptoSession = ProtocolBits{1} << 7;
inline constexpr ProtocolBits kProtocolPagefault = ProtocolBits{1} << 8;
inline constexpr ProtocolBits kProtocolConfig = ProtocolBits{1} << 9;
inline constexpr ProtocolBits kProtocolBackendSendFd = ProtocolBits{1} << 10;
inline constexpr ProtocolBits kProtocolHostNotifier = ProtocolBits{1} << 11;
inline constexpr ProtocolBits kProtocolInflightShmfd = ProtocolBits{1} << 12;
inline constexpr ProtocolBits kProtocolResetDevice = ProtocolBits{1} << 13;
inline constexpr ProtocolBits kProtocolInbandNotifications = ProtocolBits{1} << 14;
inline constexpr ProtocolBits kProtocolConfigureMemSlots = ProtocolBits{1} << 15;
inline constexpr ProtocolBits kProtocolStatus = ProtocolBits{1} << 16;
inline constexpr ProtocolBits kProtocolXenMmap = ProtocolBits{1} << 17;
inline constexpr ProtocolBits kProtocolSharedObject = ProtocolBits{1} << 18;
inline constexpr ProtocolBits kProtocolDeviceState = ProtocolBits{1} << 19;

struct ProtocolFeatureName {
  ProtocolBits bit;
  std::string_view name;
};

/// Names as in vhost-user.rst. Bits above 19 changed their meaning between versions and have no
/// names here.
inline constexpr std::array kProtocolFeatureNames = {
    ProtocolFeatureName{kProtocolMq, "MQ"},
    ProtocolFeatureName{kProtocolLogShmfd, "LOG_SHMFD"},
    ProtocolFeatureName{kProtocolRarp, "RARP"},
    ProtocolFeatureName{kProtocolReplyAck, "REPLY_ACK"},
    ProtocolFeatureName{kProtocolMtu, "MTU"},
    ProtocolFeatureName{kProtocolBackendReq, "BACKEND_REQ"},
    ProtocolFeatureName{kProtocolCrossEndian, "CROSS_ENDIAN"},
    ProtocolFeatureName{kProtocolCryptoSession, "CRYPTO_SESSION"},
    ProtocolFeatureName{kProtocolPagefault, "PAGEFAULT"},
    ProtocolFeatureName{kProtocolConfig, "CONFIG"},
    ProtocolFeatureName{kProtocolBackendSendFd, "BACKEND_SEND_FD"},
    ProtocolFeatureName{kProtocolHostNotifier, "HOST_NOTIFIER"},
    ProtocolFeatureName{kProtocolInflightShmfd, "INFLIGHT_SHMFD"},
    ProtocolFeatureName{kProtocolResetDevice, "RESET_DEVICE"},
    ProtocolFeatureName{kProtocolInbandNotifications, "INBAND_NOTIFICATIONS"},
    ProtocolFeatureName{kProtocolConfigureMemSlots, "CONFIGURE_MEM_SLOTS"},
    ProtocolFeatureName{kProtocolStatus, "STATUS"},
    ProtocolFeatureName{kProtocolXenMmap, "XEN_MMAP"},
    ProtocolFeatureName{kProtocolSharedObject, "SHARED_OBJECT"},
    ProtocolFeatureName{kProtocolDeviceState, "DEVICE_STATE"},
};

/// Payload of SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE, VRING_KICK,
/// VRING_CALL and VRING_ERR.
struct VringState {
  std::uint32_t index;
  std::uint32_t num;
};
static_assert(sizeof(VringState) == 8);

/// Payload of SET_VRING_ADDR. The parts of the ring have front-end addresses.
struct VringAddress {
  std::uint32_t index;
  std::uint32_t flags;  ///< kVringLog
  std::uint64_t descriptor;
  std::uint64_t used;
  std::uint64_t available;
  std::uint64_t log;  ///< guest physical address of the used ring for the dirty log
};
static_assert(sizeof(VringAddress) == 40 && offsetof(VringAddress, descriptor) == 8 &&
              offsetof(VringAddress, used) == 16 && offsetof(VringAddress, available) == 24);

inline constexpr std::uint32_t kVringLog = 1 << 0;

// The u64 payload of SET_VRING_KICK, SET_VRING_CALL and SET_VRING_ERR.
inline constexpr std::uint64_t kVringIndexMask = 0xff;
inline constexpr std::uint64_t kVringNoFd = 1 << 8;

/// One region of guest memory.
struct MemoryRegion {
  std::uint64_t guest_address;
  std::uint64_t size;
  std::uint64_t user_address;  ///< in the front-end's process
  std::uint64_t mmap_offset;   ///< of the region's first byte in the file
};
static_assert(sizeof(MemoryRegion) == 32 && offsetof(MemoryRegion, mmap_offset) == 24);

/// Payload of SET_MEM_TABLE: this and `num_regions` of MemoryRegion.
struct MemoryTableHeader {
  std::uint32_t num_regions;
  std::uint32_t padding;
};
static_assert(sizeof(MemoryTableHeader) == 8);

/// Payload of ADD_MEM_REG and REM_MEM_REG.
struct SingleMemoryRegion {
  std::uint64_t padding;
  MemoryRegion region;
};
static_assert(sizeof(SingleMemoryRegion) == 40);

/// Payload of SET_LOG_BASE, if LOG_SHMFD was negotiated.
struct LogDescription {
  std::uint64_t size;
  std::uint64_t offset;
};
static_assert(sizeof(LogDescription) == 16);

/// Payload of GET_CONFIG and SET_CONFIG: this and `size` bytes.
struct ConfigHeader {
  std::uint32_t offset;
  std::uint32_t size;
  std::uint32_t flags;  ///< kConfig…
};
static_assert(sizeof(ConfigHeader) == 12);

inline constexpr std::uint32_t kConfigWritable = 0;   ///< a driver changes a field
inline constexpr std::uint32_t kConfigMigration = 1;  ///< state of a migrated device
inline constexpr std::size_t kMaxConfig = 256;

/// Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD. QEMU pads it to 24 bytes, others send 20.
struct InflightDescription {
  std::uint64_t mmap_size;
  std::uint64_t mmap_offset;
  std::uint16_t num_queues;
  std::uint16_t queue_size;
};
static_assert(offsetof(InflightDescription, queue_size) == 18);
inline constexpr std::size_t kInflightDescriptionBytes = 20;

}  // namespace guestio::vhost
