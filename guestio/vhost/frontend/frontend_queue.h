// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/frontend/frontend.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/virtio/driver_ring.h"

/// A queue that a front-end of ours runs on a backend.
namespace guestio::vhost {

/// One ring in shared memory, packed if that was negotiated, with its kick and call descriptors,
/// and the messages that start and stop it on the backend.
///
/// Threads: start() and stop() on the front-end's thread; the rest on one thread at a time.
class FrontendQueue {
 public:
  struct Options {
    std::uint32_t index = 0;
    std::uint16_t size = 128;
    /// Where both sides begin: an index, or virtio::PackedPosition::to_word(). None: at the start.
    std::optional<std::uint16_t> first_index = std::nullopt;
  };

  /// Allocates and formats the ring, tells the backend all about it and enables it. Requires: the
  /// session was negotiated and the backend has `memory` in its table.
  /// Errors: of Frontend; too large (`memory` is full); host.
  static Result<FrontendQueue> start(Frontend& frontend, FrontendMemory& memory, Options options);

  /// Starts the queue on another backend after the one that ran it is gone. What that one had
  /// taken and not answered stands in the in-flight record, which the session was given before.
  /// Any thread, also while another uses the ring. Errors: of Frontend.
  Result<> resume(Frontend& frontend) const;

  /// Has the backend note in the dirty log what it writes into the ring, or no longer.
  /// Errors: of Frontend.
  Result<> set_logged(Frontend& frontend, bool is_logged) const;
  /// Where the used ring of a split ring lies, the descriptors of a packed one.
  [[nodiscard]] Gpa used_ring_address() const noexcept;

  /// Shared memory that start() will take.
  [[nodiscard]] static std::size_t memory_for(std::uint16_t size) noexcept;

  /// Stops the queue on the backend, which first finishes what is in flight. Returns where it had
  /// come to: the available index, or both places of a packed ring.
  Result<std::uint32_t> stop(Frontend& frontend);

  [[nodiscard]] virtio::DriverRing& ring() noexcept { return ring_; }
  /// Tells the backend to look at the ring.
  Result<> kick();
  /// Waits until the backend calls, at most `limit`. Returns whether it did.
  Result<bool> wait_for_call(std::chrono::milliseconds limit);
  [[nodiscard]] int call_fd() const noexcept { return call_.get(); }

 private:
  /// Where the ring's parts are, as the messages name them: descriptors, available ring or the
  /// driver's event, used ring or the device's event.
  struct Places {
    SharedRange descriptors;
    SharedRange avail;
    SharedRange used;
  };

  FrontendQueue(virtio::DriverRing ring, const Places& places, Options options,
                std::uint32_t first_base) noexcept
      : ring_(std::move(ring)), places_(places), options_(options), first_base_(first_base) {}

  static Result<Places> allocate(FrontendMemory& memory, std::uint16_t size);
  static Result<virtio::DriverRing> format(const Places& places, virtio::FeatureBits features,
                                           const Options& options);
  Result<> announce(Frontend& frontend, std::uint32_t base) const;
  [[nodiscard]] VringAddress addresses() const noexcept;

  virtio::DriverRing ring_;
  UniqueFd kick_;
  UniqueFd call_;
  Places places_;
  Options options_;
  std::uint32_t first_base_;
};

}  // namespace guestio::vhost
