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

/// One queue of a device with a fixed number of request slots. A submission occupies a slot until
/// its completion.
///
/// Errors: of the ring and the event descriptors; the queue is unusable afterwards.
/// Threads: create() and stop() on the control thread, the rest on one thread at a time.
class RequestQueue {
 public:
  struct Options {
    std::uint32_t index = 0;
    std::uint16_t size = 128;  ///< of the ring
    std::uint32_t slots = 1;
    std::uint32_t descriptors = 3;  ///< maximum of one request
    std::optional<std::uint16_t> first_index =
        std::nullopt;  ///< of the ring; nullopt: its initial index
  };

  struct Completion {
    std::uint32_t slot;
    std::uint32_t written;  ///< used length
  };

  /// Shared memory needed by create().
  static std::size_t memory_for(const Options& options);
  static Result<RequestQueue> create(Device& device, vhost::FrontendMemory& memory,
                                     const Options& options);

  /// The form of a chain.
  enum class Form { kDirect, kIndirect };
  /// Whether the ring has room for a request.
  [[nodiscard]] bool has_room(std::size_t descriptors, Form form) noexcept {
    return queue_.ring().free_descriptors() >= (form == Form::kIndirect ? 1 : descriptors);
  }
  [[nodiscard]] bool has_indirect() const noexcept { return !tables_.empty(); }

  /// Adds a request to the ring, visible to the device after send(). Requires: has_room(), a free
  /// slot, has_indirect() for kIndirect.
  Result<> add(std::uint32_t slot, std::span<const virtio::DriverSegment> segments, Form form);
  /// Publishes the added requests and kicks unless notifications are suppressed.
  Result<> send();
  /// The next completion, if any. Errors also: peer fault (not a request of ours).
  Result<std::optional<Completion>> reap();
  /// Sleeps until a call, at most `limit`. May return early.
  Result<> sleep(std::chrono::milliseconds limit);
  /// Suppresses calls, for a polling driver.
  Result<> suppress_calls() { return queue_.ring().suppress_calls(); }

  [[nodiscard]] std::uint32_t in_flight() noexcept { return queue_.ring().in_flight(); }

  /// Starts the queue on a new backend after a reconnect. On the control thread, while another
  /// thread uses the queue.
  Result<> resume(Device& device) const { return queue_.resume(device.frontend()); }
  /// Stops the queue. Errors also: peer fault (requests left without completion).
  Result<> stop(Device& device);

 private:
  RequestQueue(vhost::FrontendQueue queue, std::uint16_t size)
      : queue_(std::move(queue)), slot_of_head_(size) {}

  vhost::FrontendQueue queue_;
  std::vector<virtio::DriverTable> tables_;  // by slot, if negotiated
  std::vector<std::uint32_t> slot_of_head_;
};

}  // namespace guestio::load
