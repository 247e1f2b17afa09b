// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <list>
#include <memory>

#include "guestio/mem/dirty_log.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/registered/memory_registry.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/vring_counters.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/device.h"

namespace guestio::vhost {

/// The guest memory of one running ring: one epoch for each memory map that chains in flight use,
/// and the registrations of each.
///
///     set() ──► current epoch ──► set() again ──► old epoch ──► its last chain ends ──► destroyed
///
/// Unmapping takes long: old epochs are destroyed on the control loop. Their registrations end
/// before that, on the ring's thread.
///
/// Threads: the ring's.
class RingMemory final : private registered::LossSubscriber {
 public:
  /// `control_loop`, `registry`: null for none.
  RingMemory(uring::Loop& loop, uring::Loop* control_loop,
             std::shared_ptr<registered::MemoryRegistry> registry,
             std::shared_ptr<VringCounters> counters);
  RingMemory(const RingMemory&) = delete;
  RingMemory& operator=(const RingMemory&) = delete;
  /// Requires: no chain in flight.
  ~RingMemory();

  /// Begins an epoch. Ends the old ones without chains in flight.
  void set(mem::GuestMemory memory);
  /// Changes the dirty log in place: requests in flight use it when they complete.
  void set_dirty_log(const std::shared_ptr<const mem::DirtyLog>& pages);

  /// Requires: set() came before.
  [[nodiscard]] virtio::MemoryEpoch& current() noexcept { return epochs_.back(); }
  /// A chain of the current epoch is in flight.
  [[nodiscard]] virtio::MemoryEpoch& acquire() noexcept {
    ++epochs_.back().in_flight;
    return epochs_.back();
  }
  /// It no longer is. The last one ends an old epoch.
  void release(virtio::MemoryEpoch& epoch) noexcept {
    if (--epoch.in_flight == 0 && &epoch != &epochs_.back()) end_old(epoch);
  }

  /// Follows the registry: registers what became ready, unregisters what was lost.
  void update_registrations() {
    if (registry_ && registry_->generation() != seen_generation_) register_current();
  }
  /// Looks for losses that no request has met. One system call for each region: seldom.
  void check_residency() noexcept {
    if (registry_) registry_->check_residency();
  }
  /// Prefetches the page guards of a chain's data. Requires: set() came before.
  void prefetch_guards(const virtio::Chain& chain) const noexcept {
    if (!epochs_.back().registrations.empty()) prefetch_guards_of(chain);
  }

 private:
  /// `registrations` end before the mapping.
  struct Epoch : virtio::MemoryEpoch {
    registered::MemoryRegistry::Registrations registrations;
  };

  void on_region_lost() noexcept override;
  void register_current();
  void prefetch_guards_of(const virtio::Chain& chain) const noexcept;
  void count_regions();
  void end_old(virtio::MemoryEpoch& epoch) noexcept;
  void end(std::list<Epoch>::iterator epoch) noexcept;

  uring::Loop& loop_;
  uring::Loop* const control_loop_;                             // null: epochs are destroyed here
  const std::shared_ptr<registered::MemoryRegistry> registry_;  // null: nothing is registered
  const std::shared_ptr<VringCounters> counters_;
  std::uint32_t seen_generation_ = 0;  // of the registry
  std::list<Epoch> epochs_;            // the last one is current
};

}  // namespace guestio::vhost
