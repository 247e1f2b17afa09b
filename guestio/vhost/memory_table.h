// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/vhost/messages.h"
#include "guestio/vhost/socket.h"

namespace guestio::vhost {

/// The guest's memory as one SET_MEM_TABLE described it: mapped, and with the front-end's own
/// addresses, in which it says where the rings are. Never changes; a new message makes a new one,
/// and the old one lives until the last request that was taken under it is done.
///
/// Threads: any.
class MemoryTable {
 public:
  /// Maps `regions`, the first from the first descriptor and so on; the descriptors are closed.
  /// Errors: peer fault (number of descriptors, address overflow), and those of
  /// mem::map_file_regions() (overlap, size 0, behind the file's end, host …).
  static Result<std::shared_ptr<const MemoryTable>> map(std::span<const MemoryRegion> regions,
                                                        DescriptorList& descriptors);

  [[nodiscard]] const mem::GuestMemory& memory() const noexcept { return memory_; }

  /// Where `length` bytes at an address of the front-end lie in this process.
  /// Errors: out of range when they are not inside one region.
  Result<std::byte*> find(FrontendAddress address, std::uint64_t length) const;

 private:
  MemoryTable(std::span<const MemoryRegion> regions, mem::GuestMemory memory)
      : regions_(regions.begin(), regions.end()), memory_(std::move(memory)) {}

  std::vector<MemoryRegion> regions_;
  mem::GuestMemory memory_;
};

}  // namespace guestio::vhost
