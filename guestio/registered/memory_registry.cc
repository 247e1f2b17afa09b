// SPDX-License-Identifier: MIT
#include "guestio/registered/memory_registry.h"

#include <algorithm>
#include <utility>

#include "guestio/registered/table_share.h"
#include "guestio/uring/pinned_buffers.h"

namespace guestio::registered {

// can_clone() makes rings of its own once: on the thread that creates registries, not on a
// queue's.
MemoryRegistry::MemoryRegistry(RegistrationScope scope, std::shared_ptr<PeerLog> log,
                               std::size_t max_regions) noexcept
    : max_regions_(max_regions),
      can_share_pins_(uring::PinnedBuffers::can_clone()),
      log_(scope, std::move(log)),
      regions_(log_),
      worker_(regions_, subscribers_, log_, scope, can_share_pins_) {}

void MemoryRegistry::set_memory(const mem::GuestMemory& memory) {
  if (regions_.replace(memory, max_regions_)) worker_.start();
}

MemoryRegistry::Registrations MemoryRegistry::register_ready(uring::RegisteredBuffers& table,
                                                             const mem::GuestMemory& memory) {
  Registrations registrations;
  for (auto& region : regions_.find_ready(memory)) {
    auto registration = register_region(table, *region);
    if (registration) {
      registrations.push_back({std::move(region), std::move(*registration)});
    } else if (registration.error().kind != ErrorKind::kClosed) {
      log_.warn_refused(registration.error());
    }
  }
  return registrations;
}

Result<uring::RegisteredBuffers::Registration> MemoryRegistry::register_region(
    uring::RegisteredBuffers& table, Region& region) {
  // Another ring of the thread, or an earlier memory table, may have registered it.
  if (auto shared = table.share(region.bytes)) return shared;
  if (auto fits = check_table_share(table, region.bytes, this); !fits) return fail(fits.error());
  if (can_share_pins_) return regions_.register_pinned(region, table, this);
  return table.add(region.bytes, region.guard ? &region : nullptr, this);
}

void MemoryRegistry::unregister_lost(Registrations& registrations) noexcept {
  const auto lost = std::ranges::partition(registrations, [this](const RegisteredRegion& one) {
    return regions_.is_ready(*one.region);
  });
  registrations.erase(lost.begin(), lost.end());
}

}  // namespace guestio::registered
