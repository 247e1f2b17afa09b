// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/ring_memory.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>

namespace guestio::vhost {

RingMemory::RingMemory(uring::Loop& loop, uring::Loop* control_loop,
                       std::shared_ptr<registered::MemoryRegistry> registry,
                       std::shared_ptr<VringCounters> counters)
    : LossSubscriber(loop),
      loop_(loop),
      control_loop_(control_loop),
      registry_(std::move(registry)),
      counters_(std::move(counters)) {
  // Before the first registration: later losses are reported.
  if (registry_) registry_->subscribe(*this);
}

RingMemory::~RingMemory() {
  if (registry_) registry_->unsubscribe(*this);
  while (!epochs_.empty()) end(epochs_.begin());
  counters_->registered_regions.set(0);
  counters_->unregistered_regions.set(0);
}

void RingMemory::set(mem::GuestMemory memory) {
  epochs_.push_back({{std::move(memory), 0}, {}});
  if (registry_) register_current();
  for (auto epoch = epochs_.begin(); epoch != std::prev(epochs_.end());) {
    const auto old = epoch++;
    if (old->in_flight == 0) end(old);
  }
}

void RingMemory::set_dirty_log(const std::shared_ptr<const mem::DirtyLog>& pages) {
  for (Epoch& epoch : epochs_) epoch.memory = epoch.memory.with_dirty_log(pages);
}

void RingMemory::register_current() {
  seen_generation_ = registry_->generation();
  Epoch& current = epochs_.back();
  current.registrations = registry_->register_ready(loop_.registered_buffers(), current.memory);
  count_regions();
}

void RingMemory::count_regions() {
  const Epoch& current = epochs_.back();
  counters_->unregistered_regions.set(current.memory.regions().size() -
                                      current.registrations.size());
  counters_->registered_regions.set(current.registrations.size());
}

void RingMemory::on_region_lost() noexcept {
  for (Epoch& epoch : epochs_) registry_->unregister_lost(epoch.registrations);
  count_regions();
}

/// A guard costs one load for each page, a cache miss on pages long untouched. By the time the disk
/// asks the guard, after the rest of the batch, the lines have arrived.
void RingMemory::prefetch_guards_of(const virtio::Chain& chain) const noexcept {
  constexpr std::size_t kSmallestData = 512;
  constexpr std::size_t kExtents = 4;
  const mem::GuestMemory& memory = epochs_.back().memory;
  std::size_t left = kExtents;
  for (const mem::AddressRange& extent : chain.extents()) {
    if (extent.length() < kSmallestData) continue;
    const std::byte* const host = memory.fast_host_range(extent.start(), extent.length());
    if (host != nullptr) loop_.registered_buffers().prefetch(host, extent.length());
    if (--left == 0) return;
  }
}

void RingMemory::end_old(virtio::MemoryEpoch& epoch) noexcept {
  end(std::ranges::find_if(epochs_, [&epoch](const Epoch& other) { return &other == &epoch; }));
}

/// The last holder of a mapping unmaps it, page by page: the control loop does, while other
/// requests wait for this thread. Registrations end here, their memory there.
void RingMemory::end(std::list<Epoch>::iterator epoch) noexcept {
  struct Remains {
    std::shared_ptr<registered::MemoryRegistry> registry;  // outlives the regions
    std::list<Epoch> epochs;
  };
  Remains remains{registry_, {}};
  remains.epochs.splice(remains.epochs.end(), epochs_, epoch);
  for (auto& registered : epoch->registrations) registered.registration = {};
  if (control_loop_ != nullptr) control_loop_->post([remains = std::move(remains)] {});
}

}  // namespace guestio::vhost
