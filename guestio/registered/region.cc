// SPDX-License-Identifier: MIT
#include "guestio/registered/region.h"

#include "guestio/base/align.h"
#include "guestio/registered/residency.h"

namespace guestio::registered {

Region::Region(Owner& region_owner, const mem::RegionSpec& spec)
    : owner(region_owner),
      backing(spec.backing),
      bytes(backing->mapping().subspan(spec.offset, spec.length.raw())) {
  const auto files = backing->shareable_ranges();
  if (files.empty()) return;
  is_in_other_file =
      files.size() != 1 || files.front().offset > spec.offset || !is_memory_file(files.front().fd);
  if (is_in_other_file) return;
  fd = files.front().fd;
  offset = files.front().file_offset.plus_unchecked(spec.offset - files.front().offset);
}

bool Region::is_same(const mem::RegionSpec& spec) const noexcept {
  return spec.backing == backing && backing->mapping().data() + spec.offset == bytes.data() &&
         spec.length == ByteCount(bytes.size());
}

bool Region::is_resident(const std::byte* data, std::size_t size) const noexcept {
  return guard->holds(static_cast<std::size_t>(data - bytes.data()), size);
}

void Region::prefetch(const std::byte* data, std::size_t size) const noexcept {
  guard->prefetch(static_cast<std::size_t>(data - bytes.data()), size);
}

bool has_whole_pages(const mem::RegionSpec& spec) noexcept {
  const std::span<std::byte> mapping = spec.backing->mapping();
  return spec.backing->access() == Mapping::Access::kReadWrite &&
         fits_within(spec.offset, spec.length.raw(), mapping.size()) &&
         is_aligned(
             reinterpret_cast<std::uintptr_t>(mapping.data()) | spec.offset | spec.length.raw(),
             kPageSize);
}

}  // namespace guestio::registered
