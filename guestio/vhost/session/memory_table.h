// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/received_message.h"

namespace guestio::vhost {

/// The most memory regions of ADD_MEM_REG: as many as QEMU asks for.
inline constexpr std::size_t kMaxMemorySlots = 509;
/// The fewest offered: several times what front-ends without memory hotplug need.
inline constexpr std::size_t kMinMemorySlots = 32;

/// Snapshot of one region of a MemoryTable.
struct MemoryRegionState {
  MemoryRegion description;
  UniqueFd file;
};

/// Guest memory as described by one SET_MEM_TABLE: mapped, and with the front-end's addresses, in
/// which ring addresses are given. Immutable. A new message creates a new table; the old one lives
/// until the last request taken under it is completed.
///
/// Threads: any.
class MemoryTable {
 public:
  /// Maps each of `regions` from the descriptor at its index, and closes the descriptors.
  /// Errors: peer fault (number of descriptors, address overflow), and those of
  /// mem::map_file_regions() (overlap, size 0, beyond the end of the file, host …).
  static Result<std::shared_ptr<const MemoryTable>> map(std::span<const MemoryRegion> regions,
                                                        DescriptorList& descriptors);

  /// Restores a snapshot: up to kMaxMemorySlots regions. Errors: as above.
  static Result<std::shared_ptr<const MemoryTable>> map(std::vector<MemoryRegionState> regions);
  /// Errors: host.
  [[nodiscard]] Result<std::vector<MemoryRegionState>> snapshot() const;

  // The table with one region more or less (ADD_MEM_REG, REM_MEM_REG). Common regions keep their
  // mappings.

  /// Maps `region` from the only descriptor and closes it. Errors: as map(); peer fault when
  /// `slots` regions exist already.
  Result<std::shared_ptr<const MemoryTable>> with_region(const MemoryRegion& region,
                                                         DescriptorList& descriptors,
                                                         std::size_t slots = kMaxMemorySlots) const;
  /// Removes the region with this guest address, size and front-end address; nullptr when it was
  /// the last one. Errors: out of range (no such region).
  Result<std::shared_ptr<const MemoryTable>> without_region(const MemoryRegion& region) const;

  /// Without a dirty log.
  [[nodiscard]] const mem::GuestMemory& memory() const noexcept { return memory_; }

  /// Address in this process of `length` bytes at a front-end address.
  /// Errors: out of range (not inside one region).
  Result<std::byte*> find(FrontendAddress address, std::uint64_t length) const;
  /// Their guest address. Errors: as find().
  Result<Gpa> find_guest(FrontendAddress address, std::uint64_t length) const;

 private:
  MemoryTable(std::vector<MemoryRegion> regions, mem::GuestMemory memory)
      : regions_(std::move(regions)), memory_(std::move(memory)) {}
  static std::shared_ptr<const MemoryTable> make(std::vector<MemoryRegion> regions,
                                                 mem::GuestMemory memory);

  std::vector<MemoryRegion> regions_;
  mem::GuestMemory memory_;
};

}  // namespace guestio::vhost
