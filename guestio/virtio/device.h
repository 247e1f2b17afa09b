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
  std::uint32_t chains_out = 0;
};

/// A chain together with the memory that its addresses mean.
struct TakenChain {
  Chain chain;
  MemoryEpoch* epoch = nullptr;
  [[nodiscard]] const mem::GuestMemory& memory() const noexcept { return epoch->memory; }
};

/// One running queue, as the device model sees it. All calls on the queue's thread.
class DeviceQueue {
 public:
  enum class Popped {
    kChain,   ///< `taken` holds a well-formed chain; complete() gives it back
    kNothing  ///< none now: empty, stopped, paused, or out of room; the transport asks again
  };

  /// Takes the next chain. Malformed ones never come out here: QueueHandler::answer_malformed().
  virtual Popped pop(TakenChain& taken) noexcept = 0;
  /// Gives a chain back; `written` is how many bytes the device wrote into it. The driver hears of
  /// it at the end of the present batch.
  virtual void complete(TakenChain& taken, std::uint32_t written) noexcept = 0;
  /// Gives a chain up for good: its driver could take it for done if it came back, because what
  /// says otherwise cannot be written. The queue stops.
  virtual void abandon(TakenChain& taken, const Error& cause) noexcept = 0;
  /// Gives a chain back without an answer: whoever serves the queue next takes it again, from the
  /// in-flight record. Only after QueueHandler::leave().
  virtual void leave(TakenChain& taken) noexcept = 0;
  /// What the driver negotiated.
  [[nodiscard]] virtual FeatureBits features() const noexcept = 0;

 protected:
  ~DeviceQueue() = default;
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
  virtual std::optional<std::uint32_t> answer_malformed(const TakenChain& /*taken*/) noexcept {
    return std::nullopt;
  }
  /// The queue is being stopped, which waits for the chains that are out: what waits for better
  /// times is ended one way or the other. process() is called again for the next queue only.
  virtual void finish_up() noexcept {}

  // Another process may be about to take the queue over.

  /// Nothing is popped for a while: what waits for better times goes on waiting, and is not tried
  /// before go_on().
  virtual void pause() noexcept {}
  virtual void go_on() noexcept {}
  /// How many chains wait so. While paused.
  [[nodiscard]] virtual std::size_t waiting() const noexcept { return 0; }
  /// Instead of finish_up(), while paused: what waits is left to whoever comes next.
  virtual void leave() noexcept {}
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
