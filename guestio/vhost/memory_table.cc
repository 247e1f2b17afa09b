// SPDX-License-Identifier: MIT
#include "guestio/vhost/memory_table.h"

#include "guestio/mem/mapped_memory.h"

namespace guestio::vhost {

Result<std::shared_ptr<const MemoryTable>> MemoryTable::map(std::span<const MemoryRegion> regions,
                                                            DescriptorList& descriptors) {
  if (regions.empty() || descriptors.size() != regions.size()) {
    return fail(Error::peer_fault("one descriptor for each memory region", descriptors.size()));
  }
  std::vector<UniqueFd> files;
  std::vector<mem::FileRegion> wanted;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    const MemoryRegion& region = regions[i];
    if (!checked_add(region.user_address, region.size)) {
      return fail(Error::peer_fault("a memory region inside the front-end's address space",
                                    region.user_address));
    }
    files.push_back(descriptors.take(i));
    wanted.push_back({Gpa(region.guest_address), ByteCount(region.size), files.back().get(),
                      FileOffset(region.mmap_offset), Mapping::Access::kReadWrite});
  }
  auto memory = mem::map_file_regions(wanted);
  if (!memory) return fail(memory.error());
  return std::shared_ptr<const MemoryTable>(new MemoryTable(regions, std::move(*memory)));
}

Result<std::byte*> MemoryTable::find(FrontendAddress address, std::uint64_t length) const {
  for (const MemoryRegion& region : regions_) {
    if (address.raw() < region.user_address) continue;
    const std::uint64_t offset = address.raw() - region.user_address;
    if (!fits_within(offset, length, region.size)) continue;
    return memory_.host_range(Gpa(region.guest_address + offset), length);
  }
  return fail(ErrorKind::kOutOfRange, "an address of the front-end", address.raw());
}

}  // namespace guestio::vhost
