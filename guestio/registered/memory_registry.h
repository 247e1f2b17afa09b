// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/peer_log.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/registered/loss_subscribers.h"
#include "guestio/registered/region.h"
#include "guestio/registered/region_set.h"
#include "guestio/registered/registration_log.h"
#include "guestio/registered/registration_scope.h"
#include "guestio/registered/registration_worker.h"
#include "guestio/uring/registered_buffers.h"

/// Guest memory registered with the threads' rings, as far as that is safe and allowed.
namespace guestio::registered {

/// The registered memory of one front-end, whatever the number of its rings and memory tables.
///
///     session: set_memory() ──► worker: guard the pages, pin them ──► rings: register_ready()
///                                        ▲                                │
///                                unregister the region ◄── a page was lost
///
/// 1. Registration pins the pages of the moment. A guest that releases them later (balloon, free
///    page reporting, virtio-mem) would lose what moves through them. So pages are guarded
///    (PageGuard), operations ask the guard first, and a region with a lost page is unregistered.
/// 2. Unguardable pages: kResidentOnly leaves them out. kAll warns once and registers them, which
///    is only right for guests that never release memory.
/// 3. Idle rings have no operations that would ask. MemoryMonitor triggers a check of the file's
///    blocks, and rings that hold a lost region are told to unregister it.
/// 4. Memory in other files (FUSE, a disk) is not registered.
/// 5. Nothing waits: rings run plain operations until their memory is ready. Refused memory stays
///    plain, and the log says what the operator can do.
///
/// Threads: any. Lifetime: outlives the result of register_ready().
class MemoryRegistry {
 public:
  /// One region's registration with one ring.
  struct RegisteredRegion {
    std::shared_ptr<Region> region;
    uring::RegisteredBuffers::Registration registration;  // ends first
  };
  /// Ends before the memory does, on the ring's thread.
  using Registrations = std::vector<RegisteredRegion>;

  static constexpr std::size_t kMaxRegistered = 64;

  /// Registers at most `max_regions`: each costs two descriptors.
  explicit MemoryRegistry(RegistrationScope scope,
                          std::shared_ptr<PeerLog> log = std::make_shared<PeerLog>(),
                          std::size_t max_regions = kMaxRegistered) noexcept;

  /// The memory of the rings from now on. Regions that stay are not prepared again.
  void set_memory(const mem::GuestMemory& memory);
  /// Grows with each change of what register_ready() would return.
  [[nodiscard]] std::uint32_t generation() const noexcept { return regions_.generation(); }
  /// Registers the ready regions of `memory` with the caller's ring, the largest first, within the
  /// front-end's share of the ring's table. Threads: the ring's.
  [[nodiscard]] Registrations register_ready(uring::RegisteredBuffers& table,
                                             const mem::GuestMemory& memory);
  /// Unregisters those of `registrations` whose region was lost. Threads: the ring's.
  void unregister_lost(Registrations& registrations) noexcept;
  /// Looks for losses that no operation has met, and for regions that have become resident. One
  /// system call for each region: seldom.
  void check_residency() noexcept { regions_.check_residency(); }

  // Threads: the subscriber's loop's, which is also where it ends.
  void subscribe(LossSubscriber& subscriber) { subscribers_.subscribe(subscriber); }
  void unsubscribe(LossSubscriber& subscriber) noexcept { subscribers_.unsubscribe(subscriber); }

 private:
  [[nodiscard]] Result<uring::RegisteredBuffers::Registration> register_region(
      uring::RegisteredBuffers& table, Region& region);

  const std::size_t max_regions_;
  const bool can_share_pins_;  // one pinning for all rings
  RegistrationLog log_;
  RegionSet regions_;
  LossSubscribers subscribers_;
  RegistrationWorker worker_;  // ends first
};

}  // namespace guestio::registered
