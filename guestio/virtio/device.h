// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/layout.h"

/// Where a transport (vhost-user) and a device model (a block device) meet: neither knows the
/// other.
namespace guestio::virtio {

/// Guest memory as it was when a chain was taken, kept until that chain is given back, so that a
/// change of the memory map never pulls pages from under a request. Touched on its queue's thread.
struct MemoryEpoch {
  mem::GuestMemory memory;
  std::uint32_t in_flight = 0;
};

/// A chain together with the memory that its addresses mean.
struct PoppedChain {
  Chain chain;
  MemoryEpoch* epoch = nullptr;
  [[nodiscard]] const mem::GuestMemory& memory() const noexcept { return epoch->memory; }
};

/// One running queue, as the device model sees it. All calls on the queue's thread.
class DeviceQueue {
 public:
  /// Takes the next chain. Malformed ones never come out here: QueueHandler::write_error_status().
  virtual PopResult pop(PoppedChain& taken) noexcept = 0;
  /// Gives a chain back; `written` is how many bytes the device wrote into it. The driver hears of
  /// it at the end of the present batch.
  virtual void complete(PoppedChain& taken, std::uint32_t written) noexcept = 0;
  /// Breaks the queue: the chain has no status that its driver can trust, so it gets no used entry,
  /// now or later. The queue stops.
  virtual void break_on(PoppedChain& taken, const Error& cause) noexcept = 0;
  /// Gives the chain up without a used entry. It stays in the in-flight record, from which the next
  /// owner of the queue takes it again. Requires: within HandoverHandler::abandon().
  virtual void abandon(PoppedChain& taken) noexcept = 0;
  /// What the driver negotiated.
  [[nodiscard]] virtual FeatureBits features() const noexcept = 0;

 protected:
  ~DeviceQueue() = default;
};

/// What a takeover asks of the device model's end of one queue. A handler holds requests (pending
/// retry); the next process gets them through the in-flight record.
///
///     serving ── quiesce() ──► quiesced ── abandon() ──► stopped
///        ▲                        │
///        └────── resume() ────────┘
///
/// Threads: the queue's.
class HandoverHandler {
 public:
  /// Nothing is popped from now on. Held requests stay held and are not retried before resume().
  virtual void quiesce() noexcept = 0;
  virtual void resume() noexcept = 0;
  /// Chains held. Requires: quiesced.
  [[nodiscard]] virtual std::size_t held_chains() const noexcept = 0;
  /// Instead of QueueHandler::drain(): DeviceQueue::abandon() for each chain held.
  /// Requires: quiesced.
  virtual void abandon() noexcept = 0;

 protected:
  ~HandoverHandler() = default;
};

/// The device model's end of one queue; lives on the queue's thread.
class QueueHandler {
 public:
  virtual ~QueueHandler() = default;
  /// Something may be available: pops until there is nothing or the handler is full; called again
  /// after each batch of completions.
  virtual void process(DeviceQueue& queue) noexcept = 0;
  /// A malformed chain has to go back. Writes what tells its driver that nothing was done, at the
  /// chain's last_writable(), and returns how many bytes that were; nothing when it cannot: the
  /// chain never goes back then, and the queue stops. Called within DeviceQueue::pop().
  virtual std::optional<std::uint32_t> write_error_status(const PoppedChain& /*taken*/) noexcept {
    return std::nullopt;
  }
  /// The queue is stopping and waits for its chains in flight: requests held pending retry are
  /// completed, one way or the other. process() is called again for the next queue only.
  virtual void drain() noexcept {}
  /// For a takeover, or null where the handler never holds requests.
  [[nodiscard]] virtual HandoverHandler* handover() noexcept { return nullptr; }
};

/// The device model's end that all queues share. Calls come from the control thread.
class Device {
 public:
  virtual ~Device() = default;
  /// Features of the device itself; the transport adds its own and those of the rings.
  [[nodiscard]] virtual FeatureBits offered_features() const noexcept = 0;
  [[nodiscard]] virtual std::size_t config_size() const noexcept = 0;
  /// Copies the part of the configuration space that starts at `offset`.
  /// Errors: out of range when the part does not lie inside.
  virtual Result<> read_config(std::size_t offset, std::span<std::byte> to) const = 0;
  /// Lets the driver write. Errors: read-only for anything that it may not change (all or nothing).
  virtual Result<> write_config(std::size_t offset, std::span<const std::byte> from) = 0;
  /// The first ring is about to run. Errors: the device cannot be used now; no ring starts.
  virtual Result<> begin_use() { return {}; }
  /// The last ring has stopped, and nothing is in flight; the front-end does not know yet.
  virtual void end_use() noexcept {}
};

}  // namespace guestio::virtio
