// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"

/// Guest memory that another process shares by file descriptors, as a vhost-user front-end does.
namespace guestio::mem {

/// A stretch of a file that is guest memory.
struct FileRegion {
  Gpa start;
  ByteCount size;
  int fd;  ///< borrowed for the call; memory keeps descriptors of its own
  FileOffset offset;
  Mapping::Access access = Mapping::Access::kReadWrite;
};

struct MapOptions {
  /// The most address space that one memory may reserve, holes included. Wider memory is mapped
  /// region by region.
  ByteCount reservation_limit{std::uint64_t{1} << 42};
};

/// Maps the regions, in any order. All lie in one reservation of address space, so that
///
///     host address = guest address + a constant
///
/// with the constant a multiple of the largest page size (1 GiB) where that can be had; holes are
/// address space without memory, and a region that has gone becomes such a hole until the last user
/// of the reservation has gone. A pointer that is too old can fault but cannot reach anything else.
/// Where the regions lie too far apart, where address space is short, or where the pages of a file
/// (huge ones on hugetlbfs) do not fit the guest's layout, regions are mapped wherever there is
/// room; nothing else changes.
///
///     const std::array regions = {FileRegion{Gpa(0), ByteCount(size), memfd, FileOffset(0)}};
///     const auto memory = map_file_regions(regions);
///     if (!memory) return fail(memory.error());
///
/// Guest addresses, sizes and offsets are any numbers: the mapping is rounded out to whole pages,
/// accesses keep to the region's own bytes. The files may shrink later: accesses then answer
/// memory-fault.
///
/// Errors: invalid-argument (no bytes, no access, overlap, not a regular file), out-of-range (the
/// file is shorter, or numbers that leave their space; value: bytes needed, limit: bytes there),
/// host.
[[nodiscard]] Result<GuestMemory> map_file_regions(std::span<const FileRegion> regions,
                                                   const MapOptions& options = {});

/// `memory`, which is no view, and one region more, mapped on its own. Errors: as
/// map_file_regions().
[[nodiscard]] Result<GuestMemory> add_file_region(const GuestMemory& memory,
                                                  const FileRegion& region);

/// `memory`, which is no view, without the region that has exactly this start and size. It is
/// unmapped when the last handle that shows it goes away. Errors: out-of-range when there is no
/// such region.
[[nodiscard]] Result<GuestMemory> remove_region(const GuestMemory& memory, Gpa start,
                                                ByteCount size);

}  // namespace guestio::mem
