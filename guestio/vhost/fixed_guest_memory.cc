// SPDX-License-Identifier: MIT
#include "guestio/vhost/fixed_guest_memory.h"

#include "guestio/base/log.h"

namespace guestio::vhost {

FixedGuestMemory::Registrations FixedGuestMemory::add(uring::FixedMemory& table,
                                                      const mem::GuestMemory& memory) {
  Registrations made;
  for (const mem::RegionInfo& region : memory.regions()) {
    if (region.host == nullptr) continue;
    auto registration = table.add({region.host, region.length});
    if (registration) {
      made.push_back(std::move(*registration));
      continue;
    }
    tell(registration.error());
    // Another region may be of another kind; a limit stays a limit.
    if (registration.error().kind != ErrorKind::kUnsupported) break;
  }
  log::debug("{} of {} regions of guest memory are registered, {} pieces on this thread",
             made.size(), memory.regions().size(), table.pieces());
  return made;
}

FixedGuestMemory::Registrations FixedGuestMemory::share(uring::FixedMemory& table,
                                                        const mem::GuestMemory& memory) {
  Registrations shared;
  for (const mem::RegionInfo& region : memory.regions()) {
    auto registration = table.share({region.host, region.length});
    if (registration) shared.push_back(std::move(registration));
  }
  return shared;
}

void FixedGuestMemory::tell(const Error& refusal) noexcept {
  // Relaxed: the flag guards nothing but the line.
  if (was_told_.exchange(true, std::memory_order_relaxed)) return;
  log::warning(
      "guest memory stays unregistered, which only costs time: {} (raise the memory-lock limit or "
      "grant CAP_IPC_LOCK, use shared memory that is not a file on disk, or choose "
      "--fixed-buffers off)",
      refusal.to_string());
}

}  // namespace guestio::vhost
