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

/// Regions of guest memory that ADD_MEM_REG may bring one by one: the most that QEMU asks for.
inline constexpr std::size_t kMaxMemorySlots = 509;
/// Fewer are not offered: what front-ends without hotplugged memory need, several times over.
inline constexpr std::size_t kMinMemorySlots = 32;

/// Snapshot of one region of a MemoryTable.
struct MemoryRegionState {
  MemoryRegion description;
  UniqueFd file;
};

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

  /// As a session of another process had it: up to kMaxMemorySlots regions. Errors: as above.
  static Result<std::shared_ptr<const MemoryTable>> map(std::vector<MemoryRegionState> regions);
  /// The regions, each with a descriptor of its file. Errors: host.
  [[nodiscard]] Result<std::vector<MemoryRegionState>> snapshot() const;

  // The same table with one region more or less (ADD_MEM_REG, REM_MEM_REG). What both have stays
  // mapped where it is.

  /// Maps `region` from the one descriptor, which is closed. Errors: as map(); peer fault when
  /// there are `slots` regions already.
  Result<std::shared_ptr<const MemoryTable>> with_region(const MemoryRegion& region,
                                                         DescriptorList& descriptors,
                                                         std::size_t slots = kMaxMemorySlots) const;
  /// Takes out the region of this guest address, size and front-end's address; nullptr when it was
  /// the last one. Errors: out of range when there is no such region.
  Result<std::shared_ptr<const MemoryTable>> without_region(const MemoryRegion& region) const;

  /// Without a dirty log, so that rings can be found in it.
  [[nodiscard]] const mem::GuestMemory& memory() const noexcept { return memory_; }

  /// Where `length` bytes at an address of the front-end lie in this process.
  /// Errors: out of range when they are not inside one region.
  Result<std::byte*> find(FrontendAddress address, std::uint64_t length) const;
  /// Where they lie in the guest. Errors: as find().
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
