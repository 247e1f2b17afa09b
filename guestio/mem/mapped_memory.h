// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"

/// Guest memory shared by file descriptors, as by a vhost-user front-end.
namespace guestio::mem {

/// A range of a file as guest memory.
struct FileRegion {
  Gpa start;
  ByteCount size;
  int fd;  ///< borrowed for the call; the memory duplicates it
  FileOffset offset;
  Mapping::Access access = Mapping::Access::kReadWrite;
};

struct MapOptions {
  /// The maximum reservation of address space, holes included. Wider memory is mapped region by
  /// region.
  ByteCount reservation_limit{std::uint64_t{1} << 42};
};

/// Maps the regions, in any order. All lie in one reservation of address space, so that
///
///     host address = guest address + a constant
///
/// with the constant a multiple of the largest page size (1 GiB) if possible. Holes are PROT_NONE.
/// A removed region becomes a hole for the rest of the reservation's life, so a stale pointer
/// faults and never reaches other memory. Regions are mapped separately, with the same behaviour,
/// if they lie too far apart, if address space is short, or if huge pages of a file (hugetlbfs) do
/// not fit the guest's layout.
///
///     const std::array regions = {FileRegion{Gpa(0), ByteCount(size), memfd, FileOffset(0)}};
///     const auto memory = map_file_regions(regions);
///     if (!memory) return fail(memory.error());
///
/// Guest addresses, sizes and offsets need no alignment: the mapping is rounded to whole pages,
/// accesses stay inside the region. If a file shrinks later, accesses fail with memory-fault.
///
/// Errors: invalid-argument (empty, no access, overlap, not a regular file), out-of-range (past the
/// end of the file or of an address space; value: bytes needed, limit: bytes available), host.
[[nodiscard]] Result<GuestMemory> map_file_regions(std::span<const FileRegion> regions,
                                                   const MapOptions& options = {});

/// `memory` plus one region, mapped separately. Requires: `memory` is no view. Errors: as
/// map_file_regions().
[[nodiscard]] Result<GuestMemory> add_file_region(const GuestMemory& memory,
                                                  const FileRegion& region);

/// `memory` without the region of exactly this start and size. The last handle with the region
/// unmaps it. Requires: `memory` is no view. Errors: out-of-range without such a region.
[[nodiscard]] Result<GuestMemory> remove_region(const GuestMemory& memory, Gpa start,
                                                ByteCount size);

}  // namespace guestio::mem
