// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/memory_table.h"

#include <algorithm>

#include "guestio/base/check.h"
#include "guestio/mem/mapped_memory.h"

namespace guestio::vhost {

namespace {

/// What a front-end says of a region, as a stretch of the file that came with it.
Result<mem::FileRegion> to_file_region(const MemoryRegion& region, int file) {
  if (!checked_add(region.user_address, region.size)) {
    return fail(Error::peer_fault("a memory region inside the front-end's address space",
                                  region.user_address));
  }
  return mem::FileRegion{Gpa(region.guest_address), ByteCount(region.size), file,
                         FileOffset(region.mmap_offset), Mapping::Access::kReadWrite};
}

/// Whether two messages mean one region. Its place in the file is not part of its name.
bool is_same_region(const MemoryRegion& a, const MemoryRegion& b) noexcept {
  return a.guest_address == b.guest_address && a.size == b.size && a.user_address == b.user_address;
}

}  // namespace

Result<std::shared_ptr<const MemoryTable>> MemoryTable::map(std::span<const MemoryRegion> regions,
                                                            DescriptorList& descriptors) {
  if (regions.empty() || descriptors.size() != regions.size()) {
    return fail(Error::peer_fault("one descriptor for each memory region", descriptors.size()));
  }
  std::vector<MemoryRegionState> with_files;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    with_files.push_back({regions[i], descriptors.take(i)});
  }
  return map(std::move(with_files));
}

Result<std::shared_ptr<const MemoryTable>> MemoryTable::map(
    std::vector<MemoryRegionState> regions) {
  if (regions.size() > kMaxMemorySlots) {
    return fail(Error::peer_fault("number of memory slots", regions.size()));
  }
  std::vector<mem::FileRegion> wanted;
  std::vector<MemoryRegion> names;
  for (const MemoryRegionState& region : regions) {
    const auto stretch = to_file_region(region.description, region.file.get());
    if (!stretch) return fail(stretch.error());
    wanted.push_back(*stretch);
    names.push_back(region.description);
  }
  auto memory = mem::map_file_regions(wanted);
  if (!memory) return fail(memory.error());
  return make(std::move(names), std::move(*memory));
}

Result<std::vector<MemoryRegionState>> MemoryTable::snapshot() const {
  std::vector<MemoryRegionState> regions;
  for (const mem::RegionSpec& spec : memory_.specs()) {
    const auto named = std::ranges::find(regions_, spec.start.raw(), &MemoryRegion::guest_address);
    const auto files = spec.backing->shareable_ranges();
    GUESTIO_CHECK(named != regions_.end() && files.size() == 1, "a region of a table is one file");
    auto file = duplicate_fd(files.front().fd);
    if (!file) return fail(file.error());
    regions.push_back({*named, std::move(*file)});
  }
  return regions;
}

Result<std::shared_ptr<const MemoryTable>> MemoryTable::with_region(const MemoryRegion& region,
                                                                    DescriptorList& descriptors,
                                                                    std::size_t slots) const {
  if (descriptors.size() != 1) {
    return fail(Error::peer_fault("one descriptor for a memory region", descriptors.size()));
  }
  const UniqueFd file = descriptors.take(0);
  if (regions_.size() >= slots) {
    return fail(Error::peer_fault("more regions than memory slots", regions_.size() + 1));
  }
  const auto wanted = to_file_region(region, file.get());
  if (!wanted) return fail(wanted.error());
  auto memory = mem::add_file_region(memory_, *wanted);
  if (!memory) return fail(memory.error());
  auto regions = regions_;
  regions.push_back(region);
  return make(std::move(regions), std::move(*memory));
}

Result<std::shared_ptr<const MemoryTable>> MemoryTable::without_region(
    const MemoryRegion& region) const {
  auto regions = regions_;
  if (std::erase_if(regions, [&](const auto& other) { return is_same_region(region, other); }) ==
      0) {
    return fail(ErrorKind::kOutOfRange, "a memory region that was added", region.guest_address);
  }
  if (regions.empty()) return nullptr;
  auto memory = mem::remove_region(memory_, Gpa(region.guest_address), ByteCount(region.size));
  if (!memory) return fail(memory.error());
  return make(std::move(regions), std::move(*memory));
}

std::shared_ptr<const MemoryTable> MemoryTable::make(std::vector<MemoryRegion> regions,
                                                     mem::GuestMemory memory) {
  return std::shared_ptr<const MemoryTable>(new MemoryTable(std::move(regions), std::move(memory)));
}

Result<Gpa> MemoryTable::find_guest(FrontendAddress address, std::uint64_t length) const {
  for (const MemoryRegion& region : regions_) {
    if (address.raw() < region.user_address) continue;
    const std::uint64_t offset = address.raw() - region.user_address;
    if (fits_within(offset, length, region.size)) return Gpa(region.guest_address + offset);
  }
  return fail(ErrorKind::kOutOfRange, "an address of the front-end", address.raw());
}

Result<std::byte*> MemoryTable::find(FrontendAddress address, std::uint64_t length) const {
  const auto start = find_guest(address, length);
  if (!start) return fail(start.error());
  return memory_.host_range(*start, length);
}

}  // namespace guestio::vhost
