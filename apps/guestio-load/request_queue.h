// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "apps/guestio-load/device.h"
#include "guestio/base/error.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/vhost/frontend/frontend_queue.h"
#include "guestio/virtio/driver_chain.h"

namespace guestio::load {

/// One queue of a device with a fixed number of request slots. Who submits names a slot; it is busy
/// until it comes back with a completion.
///
/// Errors: what the ring or the event descriptors fail with; of no use afterwards.
/// Threads: create() and stop() on the control thread, the rest on one thread at a time.
class RequestQueue {
 public:
  struct Options {
    std::uint32_t index = 0;
    std::uint16_t size = 128;  ///< of the ring
    std::uint32_t slots = 1;
    std::uint32_t descriptors = 3;                            ///< the most that one request has
    std::optional<std::uint16_t> first_index = std::nullopt;  ///< of the ring; none: as it begins
  };

  struct Completion {
    std::uint32_t slot;
    std::uint32_t written;  ///< what the device says
  };

  /// Shared memory that create() will take.
  static std::size_t memory_for(const Options& options);
  static Result<RequestQueue> create(Device& device, vhost::FrontendMemory& memory,
                                     const Options& options);

  /// How the descriptors of one request are handed over.
  enum class Form { kDirect, kIndirect };
  /// Whether the ring takes a request of so many descriptors now.
  [[nodiscard]] bool has_room(std::size_t descriptors, Form form) noexcept {
    return queue_.ring().free_descriptors() >= (form == Form::kIndirect ? 1 : descriptors);
  }
  [[nodiscard]] bool has_indirect() const noexcept { return !tables_.empty(); }

  /// Puts a request into the ring; the device sees it after send(). Requires: has_room(), the slot
  /// is free, kIndirect only if has_indirect().
  Result<> add(std::uint32_t slot, std::span<const virtio::DriverSegment> segments, Form form);
  /// Shows the device what was added and kicks it if it wants that.
  Result<> send();
  /// The next completion, if there is one. Errors also: peer fault when it is of no request of
  /// ours.
  Result<std::optional<Completion>> reap();
  /// Sleeps until there may be a completion, at most `limit`.
  Result<> sleep(std::chrono::milliseconds limit);
  /// Tells the device once that nobody sleeps.
  Result<> stop_calls() { return queue_.ring().suppress_calls(); }

  [[nodiscard]] std::uint32_t in_flight() noexcept { return queue_.ring().in_flight(); }

  /// Starts the queue on a backend that came after the one it ran on. On the control thread, while
  /// another goes on using the queue.
  Result<> resume(Device& device) const { return queue_.resume(device.frontend()); }
  /// Stops the queue on the backend. Errors also: peer fault when it did not come to the end of
  /// what was sent.
  Result<> stop(Device& device);

 private:
  RequestQueue(vhost::FrontendQueue queue, std::uint16_t size)
      : queue_(std::move(queue)), slot_of_head_(size) {}

  vhost::FrontendQueue queue_;
  std::vector<virtio::DriverTable> tables_;  // by slot, if negotiated
  std::vector<std::uint32_t> slot_of_head_;
};

}  // namespace guestio::load
