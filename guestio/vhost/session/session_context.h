// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/peer_log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/dirty_log.h"
#include "guestio/registered/memory_registry.h"
#include "guestio/task/rest_point.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/vhost/session/back_channel.h"
#include "guestio/vhost/session/inband_ring.h"
#include "guestio/vhost/session/memory_table.h"
#include "guestio/vhost/session/pipe_relay.h"
#include "guestio/vhost/session/ring_setup.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/received_message.h"
#include "guestio/virtio/device.h"

namespace guestio::vhost {

/// State that the message handlers of one session share.
///
///     Session ── dispatch() ──► MemoryHandlers   LogHandlers   DeviceHandlers
///                               RingHandlers     PostcopyHandlers
///                                       │
///                                       ▼
///                                SessionContext: message, features, memory, rings, …
///
/// Threads: the control thread, which runs `home`.
struct SessionContext {
  struct Parts {
    uring::Loop& home;
    virtio::Device& device;
    std::span<const std::unique_ptr<Queue>> queues;     ///< offered
    task::RestPoint& rest;                              ///< between two messages
    virtio::FeatureBits ring_features = kRingFeatures;  ///< offered
    std::shared_ptr<registered::MemoryRegistry> registry =
        {};                         ///< of this session; null: memory is not registered
    bool offers_post_copy = false;  ///< requires a trusted front-end
    std::shared_ptr<PeerLog> peer_log = std::make_shared<PeerLog>();
    std::shared_ptr<RelayCount> relays = std::make_shared<RelayCount>();
    std::size_t memory_slots = kMaxMemorySlots;  ///< offered
  };

  /// Ring features of the transport.
  static constexpr virtio::FeatureBits kRingFeatures =
      virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx | virtio::kFeatureRingPacked;

  /// Reports of rings, from their threads. Outlives the session: a report may arrive later.
  struct DeviceCondition {
    /// A ring is broken. States: false → true on a ring's thread, → false after a device reset,
    /// when all its rings have stopped.
    std::atomic<bool> needs_reset = false;
    /// Tells the front-end; null after the session. Control thread only.
    std::function<void()> report;
  };

  struct Log {
    std::shared_ptr<const mem::DirtyLog> pages;  ///< in use while kFeatureLogAll is set
    LogDescription description{};
    UniqueFd file;  ///< of `pages`
    UniqueFd event;
  };

  SessionContext(const Parts& its_parts, UniqueFd its_socket);
  SessionContext(const SessionContext&) = delete;
  SessionContext& operator=(const SessionContext&) = delete;
  ~SessionContext() = default;

  [[nodiscard]] std::uint64_t offered_features() const noexcept;
  [[nodiscard]] ProtocolBits offered_protocol_features() const noexcept;
  [[nodiscard]] bool has_feature(ProtocolBits feature) const noexcept {
    return (protocol_features & feature) != 0;
  }
  /// Errors: unsupported, unless the front-end negotiated the protocol feature.
  [[nodiscard]] Result<> require_feature(ProtocolBits feature) const;
  /// The payload of the present message. Errors: peer fault (another size).
  template <typename T>
  [[nodiscard]] Result<T> payload_as() const {
    const auto value = message.as<T>();
    if (!value) return fail(Error::peer_fault("wrong payload size", message.header.size));
    return *value;
  }
  /// The device status, with NEEDS_RESET after a ring broke: only a reset revives it (virtio 1.2,
  /// section 2.1.2).
  [[nodiscard]] std::uint8_t device_status() const noexcept;

  /// Errors: peer fault (not an offered ring).
  Result<RingSetup*> find_ring(std::uint32_t index);
  [[nodiscard]] RingContext ring_context() const;
  /// Starts the ring if it has all that it needs. Errors: of virtio::Device::begin_use() and
  /// RingSetup::start(); the ring is idle then.
  task::Task<Result<>> start_if_ready(RingSetup& ring);
  /// Resumes a frozen ring. Errors: as above.
  task::Task<Result<>> resume_ring(RingSetup& ring);
  /// Puts a changed log into effect on all rings, also after one of them failed. Errors: the last
  /// one of a ring.
  task::Task<Result<>> update_logs();
  /// Releases the device and suspends the back channel when no ring runs.
  void update_device_use();

  /// Ends the connection; Session::run() then drains and returns.
  void disconnect() noexcept;

  const Parts parts;
  const UniqueFd socket;
  Message message;
  BackChannel back_channel{parts.home, parts.peer_log};
  PipeRelay relay{parts.home, parts.relays};
  std::uint64_t features = 0;
  ProtocolBits protocol_features = 0;
  std::uint8_t status = 0;  ///< of the virtio device, as the driver wrote it
  const std::shared_ptr<DeviceCondition> condition = std::make_shared<DeviceCondition>();
  std::shared_ptr<const MemoryTable> memory;
  std::shared_ptr<const InflightRecord> inflight;
  Log log;
  std::vector<std::unique_ptr<RingSetup>> rings;
  std::vector<std::unique_ptr<InbandRing>> inband;  ///< one for each ring

 private:
  Result<> begin_device_use();

  bool uses_device_ = false;  // a ring runs
};

}  // namespace guestio::vhost
