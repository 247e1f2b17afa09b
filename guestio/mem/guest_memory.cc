// SPDX-License-Identifier: MIT
#include "guestio/mem/guest_memory.h"

#include <algorithm>

#include "guestio/mem/guest_memory_table.h"

namespace guestio::mem {

namespace {

using internal::Region;
using internal::Table;

Result<Region> make_region(const RegionSpec& spec) {
  if (spec.length.raw() == 0 || spec.backing == nullptr) {
    return fail(ErrorKind::kInvalidArgument, "empty region of guest memory", spec.start.raw());
  }
  const std::uint64_t length = spec.length.raw();
  if (!AddressRange::from_start_and_length(spec.start, length)) {
    return fail(ErrorKind::kOutOfRange, "region of guest memory", length, ~spec.start.raw());
  }
  Backing& backing = *spec.backing;
  if (!fits_within(spec.offset, length, backing.size().raw())) {
    return fail(ErrorKind::kOutOfRange, "region past the end of its backing", length,
                backing.size().raw());
  }
  Region region;
  region.start = spec.start.raw();
  region.length = length;
  region.offset = spec.offset;
  region.log_address = spec.start.raw();
  const std::span<std::byte> mapping = backing.mapping();
  if (mapping.size() > spec.offset) {
    region.host = mapping.data() + spec.offset;
    region.mapped = std::min<std::uint64_t>(mapping.size() - spec.offset, length);
  }
  region.writable = backing.access() == Mapping::Access::kReadWrite;
  region.lock_mode = backing.lock_mode();
  region.read_bitmap = backing.bitmap(Access::kRead);
  region.write_bitmap = backing.bitmap(Access::kWrite);
  region.backing = spec.backing;
  return region;
}

Result<> check_overlap(std::span<const Region> sorted) {
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].start - sorted[i - 1].start < sorted[i - 1].length) {
      return fail(ErrorKind::kInvalidArgument, "overlapping regions of guest memory",
                  sorted[i].start);
    }
  }
  return {};
}

/// The part of `region` that lies in [start, last], moved so that `start` becomes address 0.
/// Requires: they overlap.
Region clip(const Region& region, std::uint64_t start, std::uint64_t last) {
  Region part = region;
  const std::uint64_t before = start > region.start ? start - region.start : 0;
  const std::uint64_t region_last = region.start + (region.length - 1);
  part.length = std::min(last, region_last) - (region.start + before) + 1;
  part.start = region.start + before - start;
  part.offset += before;
  part.log_address += before;
  part.mapped = region.mapped > before ? std::min(region.mapped - before, part.length) : 0;
  part.host = part.mapped != 0 ? region.host + before : nullptr;
  return part;
}

}  // namespace

GuestMemory::GuestMemory(std::shared_ptr<const Table> table) noexcept : table_(std::move(table)) {
  for (const Region& region : table_->regions) {
    if (!region.is_plain() || region.length < window_.readable) continue;
    window_ = {region.start, region.host, region.length,
               region.writable && table_->log == nullptr ? region.length : 0,
               region.lock_mode == LockMode::kNothing};
  }
}

const Table& GuestMemory::table() const noexcept {
  static const Table empty;
  return table_ != nullptr ? *table_ : empty;
}

Result<GuestMemory> GuestMemory::create(std::span<const RegionSpec> regions) {
  if (const auto installed = install_fault_recovery(); !installed) return fail(installed.error());
  auto table = std::make_shared<Table>();
  table->regions.reserve(regions.size());
  for (const RegionSpec& spec : regions) {
    auto region = make_region(spec);
    if (!region) return fail(region.error());
    table->regions.push_back(std::move(*region));
  }
  std::ranges::sort(table->regions, {}, &Region::start);
  if (const auto apart = check_overlap(table->regions); !apart) return fail(apart.error());
  return GuestMemory(std::move(table));
}

Result<GuestMemory> GuestMemory::allocate(ByteCount size, Gpa start) {
  auto mapping = Mapping::anonymous(size.raw());
  if (!mapping) return fail(mapping.error());
  const RegionSpec region{start, size, std::make_shared<AnonymousBacking>(std::move(*mapping))};
  return create({&region, 1});
}

Result<std::byte*> GuestMemory::host_range(Gpa start, std::uint64_t length) const noexcept {
  if (length == 0) return nullptr;
  const Region* const region = table().find(start.raw());
  if (region == nullptr) return internal::fail_outside(table(), start.raw());
  const std::uint64_t at = start.raw() - region->start;
  if (length > region->length - at) {
    return fail(ErrorKind::kOutOfRange, "bytes of one region of guest memory", length,
                region->length - at);
  }
  if (!region->is_plain() || region->lock_mode != LockMode::kNothing) {
    return fail(ErrorKind::kNotLockable, "guest memory accessed in place", start.raw());
  }
  return region->host + at;
}

Result<> GuestMemory::expose(const AddressRange& range) const noexcept {
  const Region* hint = nullptr;
  return internal::for_each_slice(table(), hint, range, [](const internal::RegionSlice& slice) {
    return slice.region->backing->expose(slice.backing_offset(), slice.length);
  });
}

std::optional<std::uint64_t> GuestMemory::iova(Gpa address) const noexcept {
  const Region* const region = table().find(address.raw());
  if (region == nullptr) return std::nullopt;
  const auto base = region->backing->base_iova();
  return base ? checked_add(*base, region->offset + (address.raw() - region->start)) : std::nullopt;
}

Result<GuestMemory> GuestMemory::subrange(const AddressRange& range) const {
  if (range.is_empty()) return GuestMemory();
  const Table& whole = table();
  const std::uint64_t start = range.start().raw();
  const std::uint64_t last = range.last().raw();
  if (whole.regions.empty() || last > whole.end() - 1) return internal::fail_outside(whole, last);
  auto part = std::make_shared<Table>();
  part->log = whole.log;
  for (const Region& region : whole.regions) {
    const auto bytes = AddressRange::from_checked(Gpa(region.start), region.length);
    if (bytes.overlaps(range)) part->regions.push_back(clip(region, start, last));
  }
  return GuestMemory(std::move(part));
}

GuestMemory GuestMemory::with_dirty_log(std::shared_ptr<const DirtyLog> log) const {
  auto logged = std::make_shared<Table>(table());
  logged->log = std::move(log);
  return GuestMemory(std::move(logged));
}

std::shared_ptr<const DirtyLog> GuestMemory::dirty_log() const noexcept { return table().log; }

std::vector<RegionInfo> GuestMemory::regions() const {
  std::vector<RegionInfo> result;
  for (const Region& region : table().regions) {
    result.push_back({Gpa(region.start), region.length, region.host,
                      region.writable ? Mapping::Access::kReadWrite : Mapping::Access::kRead});
  }
  return result;
}

std::vector<RegionSpec> GuestMemory::specs() const {
  std::vector<RegionSpec> result;
  for (const Region& region : table().regions) {
    result.push_back({Gpa(region.start), ByteCount(region.length), region.backing, region.offset});
  }
  return result;
}

std::vector<ShareableRegion> GuestMemory::shareable_regions() const {
  std::vector<ShareableRegion> result;
  for (const Region& region : table().regions) {
    for (const ShareableRange& part : region.backing->shareable_ranges()) {
      // The overlap of two ranges of the backing: the shareable one and the region's.
      const std::uint64_t first = std::max(part.offset, region.offset);
      const std::uint64_t end = std::min(part.offset + part.length, region.offset + region.length);
      if (first >= end) continue;
      result.push_back({Gpa(region.start + (first - region.offset)), end - first, part.fd,
                        part.file_offset.plus_unchecked(first - part.offset)});
    }
  }
  return result;
}

Gpa GuestMemory::end() const noexcept { return Gpa(table().end()); }

}  // namespace guestio::mem
