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

/// The interface between a transport (vhost-user) and a device model (virtio-blk). Neither knows
/// the other.
namespace guestio::virtio {

/// Guest memory as of the time a chain was popped. It stays mapped until the chain is returned: a
/// change of the memory map never unmaps pages under a request. Threads: the queue's.
struct MemoryEpoch {
  mem::GuestMemory memory;
  std::uint32_t in_flight = 0;
};

/// A chain and the memory of its addresses.
struct PoppedChain {
  Chain chain;
  MemoryEpoch* epoch = nullptr;
  [[nodiscard]] const mem::GuestMemory& memory() const noexcept { return epoch->memory; }
};

/// One running queue, as the device model sees it. Threads: the queue's.
class DeviceQueue {
 public:
  /// Pops the next chain: kChain or kNothing. Never a malformed one; those go to
  /// QueueHandler::write_error_status(). On kNothing the transport calls process() again later.
  virtual PopResult pop(PoppedChain& popped) noexcept = 0;
  /// Returns a chain with `written` bytes written by the device. The driver sees the used entry at
  /// the end of the batch.
  virtual void complete(PoppedChain& popped, std::uint32_t written) noexcept = 0;
  /// Breaks the queue: the chain has no reliable status, so it never gets a used entry, and the
  /// queue stops.
  virtual void break_on(PoppedChain& popped, const Error& cause) noexcept = 0;
  /// Gives the chain up without a used entry. It stays in the in-flight record, and the next owner
  /// of the queue resubmits it. Requires: within HandoverHandler::abandon().
  virtual void abandon(PoppedChain& popped) noexcept = 0;
  /// The negotiated features.
  [[nodiscard]] virtual FeatureBits features() const noexcept = 0;

 protected:
  ~DeviceQueue() = default;
};

/// The takeover interface of a device model's queue. The handler may hold requests pending retry;
/// the next process finds them in the in-flight record.
///
///     serving ── quiesce() ──► quiesced ── abandon() ──► stopped
///        ▲                        │
///        └────── resume() ────────┘
///
/// Threads: the queue's.
class HandoverHandler {
 public:
  /// Pops nothing more. Held requests stay held, without a retry before resume().
  virtual void quiesce() noexcept = 0;
  virtual void resume() noexcept = 0;
  /// Requires: quiesced.
  [[nodiscard]] virtual std::size_t held_chains() const noexcept = 0;
  /// In place of QueueHandler::drain(): calls DeviceQueue::abandon() for each held chain.
  /// Requires: quiesced.
  virtual void abandon() noexcept = 0;

 protected:
  ~HandoverHandler() = default;
};

/// The device model's end of one queue. Threads: the queue's.
class QueueHandler {
 public:
  virtual ~QueueHandler() = default;
  /// Chains may be available: pops until there are none or the handler is full. Called again after
  /// each batch of completions.
  virtual void process(DeviceQueue& queue) noexcept = 0;
  /// Writes an error status at last_writable() of a malformed chain. Returns the bytes written.
  /// Without a value the chain is never returned, and the queue stops. Called within
  /// DeviceQueue::pop().
  virtual std::optional<std::uint32_t> write_error_status(const PoppedChain& /*popped*/) noexcept {
    return std::nullopt;
  }
  /// The queue stops and waits for its chains in flight: completes requests held pending retry,
  /// with success or error. process() is called again for the next queue only.
  virtual void drain() noexcept {}
  /// The takeover interface; null for a handler without held requests.
  [[nodiscard]] virtual HandoverHandler* handover() noexcept { return nullptr; }
};

/// The part of a device model that its queues share. Threads: the control thread's.
class Device {
 public:
  virtual ~Device() = default;
  /// The device's own features. The transport adds its own and those of the rings.
  [[nodiscard]] virtual FeatureBits offered_features() const noexcept = 0;
  [[nodiscard]] virtual std::size_t config_size() const noexcept = 0;
  /// Copies the configuration space from `offset` on. Errors: out of range.
  virtual Result<> read_config(std::size_t offset, std::span<std::byte> to) const = 0;
  /// A write by the driver, all or nothing. Errors: read-only (not a writable field).
  virtual Result<> write_config(std::size_t offset, std::span<const std::byte> from) = 0;
  /// Before the first ring runs. Errors: the device cannot be used now, and no ring starts.
  virtual Result<> begin_use() { return {}; }
  /// After the last ring has stopped with nothing in flight, and before the front-end knows.
  virtual void end_use() noexcept {}
};

}  // namespace guestio::virtio
