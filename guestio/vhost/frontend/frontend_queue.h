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

/// A queue of a front-end on a backend.
namespace guestio::vhost {

/// One ring in shared memory, packed if that was negotiated, with its kick and call descriptors,
/// and the messages that start and stop it on the backend.
///
/// Threads: start() and stop() the front-end's; the rest one at a time.
class FrontendQueue {
 public:
  struct Options {
    std::uint32_t index = 0;
    std::uint16_t size = 128;
    /// The start of both sides: an index, or virtio::PackedPosition::to_word(). Default: 0.
    std::optional<std::uint16_t> first_index = std::nullopt;
  };

  /// Allocates, formats, sets up and enables the ring. Requires: a negotiated session, `memory` in
  /// the backend's memory table. Errors: of Frontend; too large (`memory` is full); host.
  static Result<FrontendQueue> start(Frontend& frontend, FrontendMemory& memory, Options options);

  /// Starts the queue on another backend after the previous one has ended. The session got the
  /// in-flight record, with that one's chains in flight, before.
  /// Threads: any, also while another uses the ring. Errors: of Frontend.
  Result<> resume(Frontend& frontend) const;

  /// Makes the backend mark its writes into the ring in the dirty log, or not. Errors: of Frontend.
  Result<> set_logged(Frontend& frontend, bool is_logged) const;
  /// The used ring of a split ring, the descriptor ring of a packed one.
  [[nodiscard]] Gpa used_ring_address() const noexcept;

  /// The shared memory that start() allocates.
  [[nodiscard]] static std::size_t memory_for(std::uint16_t size) noexcept;

  /// Stops the queue on the backend, which drains it first. Returns its base: the available index,
  /// or both positions of a packed ring.
  Result<std::uint32_t> stop(Frontend& frontend);

  [[nodiscard]] virtio::DriverRing& ring() noexcept { return ring_; }
  /// Kicks the backend.
  Result<> kick();
  /// Waits for a call of the backend. Returns false after `timeout`.
  Result<bool> wait_for_call(std::chrono::milliseconds timeout);
  [[nodiscard]] int call_fd() const noexcept { return call_.get(); }

 private:
  /// The ring's parts, named as in the messages: descriptors; available ring or driver event; used
  /// ring or device event.
  struct RingAreas {
    SharedRange descriptors;
    SharedRange avail;
    SharedRange used;
  };

  FrontendQueue(virtio::DriverRing ring, const RingAreas& areas, Options options,
                std::uint32_t first_base) noexcept
      : ring_(std::move(ring)), areas_(areas), options_(options), first_base_(first_base) {}

  static Result<RingAreas> allocate(FrontendMemory& memory, std::uint16_t size);
  static Result<virtio::DriverRing> format(const RingAreas& areas, virtio::FeatureBits features,
                                           const Options& options);
  Result<> send_setup(Frontend& frontend, std::uint32_t base) const;
  [[nodiscard]] VringAddress addresses() const noexcept;

  virtio::DriverRing ring_;
  UniqueFd kick_;
  UniqueFd call_;
  RingAreas areas_;
  Options options_;
  std::uint32_t first_base_;
};

}  // namespace guestio::vhost
