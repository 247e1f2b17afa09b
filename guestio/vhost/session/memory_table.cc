// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/memory_table.h"

#include <algorithm>

#include "guestio/base/check.h"
#include "guestio/mem/mapped_memory.h"

namespace guestio::vhost {

namespace {

/// A region of a message as a range of its file.
Result<mem::FileRegion> to_file_region(const MemoryRegion& region, int file) {
  if (!checked_add(region.user_address, region.size)) {
    return fail(Error::peer_fault("memory region exceeds the address space of the front-end",
                                  region.user_address));
  }
  return mem::FileRegion{Gpa(region.guest_address), ByteCount(region.size), file,
                         FileOffset(region.mmap_offset), Mapping::Access::kReadWrite};
}

/// Whether two messages name the same region. The file offset is not part of the name.
bool is_same_region(const MemoryRegion& a, const MemoryRegion& b) noexcept {
  return a.guest_address == b.guest_address && a.size == b.size && a.user_address == b.user_address;
}

}  // namespace

Result<std::shared_ptr<const MemoryTable>> MemoryTable::map(std::span<const MemoryRegion> regions,
                                                            DescriptorList& descriptors) {
  if (regions.empty() || descriptors.size() != regions.size()) {
    return fail(Error::peer_fault("memory regions without exactly one descriptor each",
                                  descriptors.size()));
  }
  std::vector<MemoryRegionState> file_regions;
  for (std::size_t i = 0; i < regions.size(); ++i) {
    file_regions.push_back({regions[i], descriptors.take(i)});
  }
  return map(std::move(file_regions));
}

Result<std::shared_ptr<const MemoryTable>> MemoryTable::map(
    std::vector<MemoryRegionState> regions) {
  if (regions.size() > kMaxMemorySlots) {
    return fail(Error::peer_fault("more memory regions than slots", regions.size()));
  }
  std::vector<mem::FileRegion> wanted;
  std::vector<MemoryRegion> descriptions;
  for (const MemoryRegionState& region : regions) {
    const auto wanted_region = to_file_region(region.description, region.file.get());
    if (!wanted_region) return fail(wanted_region.error());
    wanted.push_back(*wanted_region);
    descriptions.push_back(region.description);
  }
  auto memory = mem::map_file_regions(wanted);
  if (!memory) return fail(memory.error());
  return make(std::move(descriptions), std::move(*memory));
}

Result<std::vector<MemoryRegionState>> MemoryTable::snapshot() const {
  std::vector<MemoryRegionState> regions;
  for (const mem::RegionSpec& spec : memory_.specs()) {
    const auto description =
        std::ranges::find(regions_, spec.start.raw(), &MemoryRegion::guest_address);
    const auto files = spec.backing->shareable_ranges();
    GUESTIO_CHECK(description != regions_.end() && files.size() == 1,
                  "one file for each region of a table");
    auto file = duplicate_fd(files.front().fd);
    if (!file) return fail(file.error());
    regions.push_back({*description, std::move(*file)});
  }
  return regions;
}

Result<std::shared_ptr<const MemoryTable>> MemoryTable::with_region(const MemoryRegion& region,
                                                                    DescriptorList& descriptors,
                                                                    std::size_t slots) const {
  if (descriptors.size() != 1) {
    return fail(
        Error::peer_fault("ADD_MEM_REG without exactly one descriptor", descriptors.size()));
  }
  const UniqueFd file = descriptors.take(0);
  if (regions_.size() >= slots) {
    return fail(Error::peer_fault("more memory regions than slots", regions_.size() + 1));
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
    return fail(ErrorKind::kOutOfRange, "memory region of REM_MEM_REG", region.guest_address);
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
  return fail(ErrorKind::kOutOfRange, "address of the front-end", address.raw());
}

Result<std::byte*> MemoryTable::find(FrontendAddress address, std::uint64_t length) const {
  const auto start = find_guest(address, length);
  if (!start) return fail(start.error());
  return memory_.host_range(*start, length);
}

}  // namespace guestio::vhost
