// SPDX-License-Identifier: MIT
#include "guestio/mem/mapped_memory.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <vector>

#include "guestio/base/unique_fd.h"

namespace guestio::mem {

namespace {

/// A region, checked before it is mapped.
struct CheckedRegion {
  FileRegion region;
  std::uint64_t page_size;  ///< of the file: huge on hugetlbfs

  [[nodiscard]] std::uint64_t start() const noexcept { return region.start.raw(); }
  [[nodiscard]] std::uint64_t size() const noexcept { return region.size.raw(); }
  [[nodiscard]] std::uint64_t last() const noexcept { return start() + (size() - 1); }
  /// Whether guest address and file offset have the same offset in a page.
  [[nodiscard]] bool fits_layout() const noexcept {
    return is_aligned(start() | size() | region.offset.raw(), page_size);
  }
};

std::uint64_t host_page_size() noexcept {
  static const auto size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

Result<> check_numbers(const FileRegion& region) {
  if (region.size.raw() == 0 || region.access == Mapping::Access::kNone) {
    return fail(ErrorKind::kInvalidArgument, "file region of guest memory", region.start.raw());
  }
  if (!AddressRange::from_start_and_length(region.start, region.size.raw())) {
    return fail(ErrorKind::kOutOfRange, "file region of guest memory", region.size.raw(),
                ~region.start.raw());
  }
  constexpr auto kMaxOffset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
  if (!fits_within(region.offset.raw(), region.size.raw(), kMaxOffset)) {
    return fail(ErrorKind::kOutOfRange, "offset of guest memory in a file", region.size.raw(),
                kMaxOffset);
  }
  return {};
}

/// Checks the file. The result may be outdated immediately: it detects honest mistakes, fault
/// recovery handles the rest.
Result<CheckedRegion> check_region(const FileRegion& region) {
  if (const auto good = check_numbers(region); !good) return fail(good.error());
  struct stat status{};
  if (::fstat(region.fd, &status) != 0) return fail_host("fstat of guest memory");
  if (!S_ISREG(status.st_mode)) {
    return fail(ErrorKind::kInvalidArgument, "guest memory in a file that is not regular",
                status.st_mode);
  }
  const std::uint64_t end = region.offset.raw() + region.size.raw();
  if (end > static_cast<std::uint64_t>(status.st_size)) {
    return fail(ErrorKind::kOutOfRange, "guest memory past the end of its file", end,
                static_cast<std::uint64_t>(status.st_size));
  }
  struct statfs system{};
  if (::fstatfs(region.fd, &system) != 0) return fail_host("fstatfs of guest memory");
  const bool huge = static_cast<std::uint64_t>(system.f_type) == HUGETLBFS_MAGIC;
  return CheckedRegion{region,
                       huge ? static_cast<std::uint64_t>(system.f_bsize) : host_page_size()};
}

/// The address space of one memory, shared by its regions.
struct Reservation {
  Mapping space;
  std::uint64_t start;  ///< the guest address of its first byte
};

/// One range of a file, in a reservation or mapped separately.
class FileBacking final : public PlainBacking {
 public:
  /// `mapping` begins `delta` bytes before the region. `place` is empty then.
  FileBacking(const FileRegion& region, UniqueFd fd, Mapping mapping, std::uint64_t delta) noexcept
      : region_(region),
        fd_(std::move(fd)),
        own_(std::move(mapping)),
        bytes_(own_.bytes().subspan(delta, region.size.raw())) {}
  FileBacking(const FileRegion& region, UniqueFd fd, std::shared_ptr<Reservation> place) noexcept
      : region_(region),
        fd_(std::move(fd)),
        place_(std::move(place)),
        bytes_(
            place_->space.bytes().subspan(region.start.raw() - place_->start, region.size.raw())) {}
  ~FileBacking() override {
    if (place_ == nullptr) return;
    // On failure the file stays mapped until the reservation is unmapped: safe, but wasteful.
    (void)place_->space.unmap_at(static_cast<std::size_t>(bytes_.data() - place_->space.data()),
                                 bytes_.size());
  }

  [[nodiscard]] std::span<std::byte> mapping() const noexcept override { return bytes_; }
  [[nodiscard]] Mapping::Access access() const noexcept override { return region_.access; }
  [[nodiscard]] std::vector<ShareableRange> shareable_ranges() const override {
    return {{0, bytes_.size(), fd_.get(), region_.offset}};
  }

 private:
  FileRegion region_;
  UniqueFd fd_;
  std::shared_ptr<Reservation> place_;
  Mapping own_;
  std::span<std::byte> bytes_;
};

/// Keeps guest memory out of core dumps: it is secret and large.
void keep_out_of_core_dumps(std::span<std::byte> bytes) noexcept {
  (void)::madvise(bytes.data(), bytes.size(), MADV_DONTDUMP);  // advice only
}

Result<std::shared_ptr<Backing>> map_alone(const CheckedRegion& checked) {
  const FileRegion& region = checked.region;
  auto fd = duplicate_fd(region.fd);
  if (!fd) return fail(fd.error());
  // Whole pages of the file, huge ones on hugetlbfs. The region is a part of them.
  const std::uint64_t from = align_down(region.offset.raw(), checked.page_size);
  const std::uint64_t delta = region.offset.raw() - from;
  auto mapping =
      Mapping::shared_file(region.fd, FileOffset(from),
                           align_up(delta + region.size.raw(), checked.page_size), region.access);
  if (!mapping) return fail(mapping.error());
  keep_out_of_core_dumps(mapping->bytes());
  return std::make_shared<FileBacking>(region, std::move(*fd), std::move(*mapping), delta);
}

Result<std::shared_ptr<Backing>> map_in_place(const CheckedRegion& checked,
                                              const std::shared_ptr<Reservation>& place) {
  const FileRegion& region = checked.region;
  auto fd = duplicate_fd(region.fd);
  if (!fd) return fail(fd.error());
  const std::uint64_t at = region.start.raw() - place->start;
  if (const auto placed =
          place->space.map_file_at(at, region.fd, region.offset, region.size.raw(), region.access);
      !placed) {
    return fail(placed.error());
  }
  keep_out_of_core_dumps(place->space.bytes().subspan(at, region.size.raw()));
  return std::make_shared<FileBacking>(region, std::move(*fd), place);
}

/// One reservation for all regions; nullptr if they need separate mappings. Requires: sorted.
std::shared_ptr<Reservation> reserve(std::span<const CheckedRegion> regions, ByteCount limit) {
  constexpr std::array kAlignments{std::uint64_t{1} << 30, std::uint64_t{1} << 21};
  if (regions.empty()) return nullptr;
  for (const std::uint64_t alignment : {kAlignments[0], kAlignments[1], host_page_size()}) {
    const std::uint64_t start = align_down(regions.front().start(), alignment);
    const std::uint64_t before_last = regions.back().last() - start;
    if (before_last >= limit.raw()) continue;
    auto space = Mapping::reserve(before_last + 1, alignment);
    if (space) return std::make_shared<Reservation>(std::move(*space), start);
  }
  return nullptr;
}

Result<std::vector<CheckedRegion>> check_all(std::span<const FileRegion> regions) {
  std::vector<CheckedRegion> checked;
  checked.reserve(regions.size());
  for (const FileRegion& region : regions) {
    auto one = check_region(region);
    if (!one) return fail(one.error());
    checked.push_back(*one);
  }
  std::ranges::sort(checked, {}, &CheckedRegion::start);
  for (std::size_t i = 1; i < checked.size(); ++i) {
    if (checked[i].start() <= checked[i - 1].last()) {
      return fail(ErrorKind::kInvalidArgument, "overlapping regions of guest memory",
                  checked[i].start());
    }
  }
  return checked;
}

}  // namespace

Result<GuestMemory> map_file_regions(std::span<const FileRegion> regions,
                                     const MapOptions& options) {
  const auto checked = check_all(regions);
  if (!checked) return fail(checked.error());
  const auto place = reserve(*checked, options.reservation_limit);
  std::vector<RegionSpec> specs;
  specs.reserve(checked->size());
  for (const CheckedRegion& one : *checked) {
    auto backing =
        place != nullptr && one.fits_layout() ? map_in_place(one, place) : map_alone(one);
    if (!backing) return fail(backing.error());
    specs.push_back({one.region.start, one.region.size, std::move(*backing)});
  }
  return GuestMemory::create(specs);
}

Result<GuestMemory> add_file_region(const GuestMemory& memory, const FileRegion& region) {
  const auto checked = check_region(region);
  if (!checked) return fail(checked.error());
  auto backing = map_alone(*checked);
  if (!backing) return fail(backing.error());
  std::vector<RegionSpec> specs = memory.specs();
  specs.push_back({region.start, region.size, std::move(*backing)});
  auto result = GuestMemory::create(specs);
  if (!result) return result;
  return result->with_dirty_log(memory.dirty_log());
}

Result<GuestMemory> remove_region(const GuestMemory& memory, Gpa start, ByteCount size) {
  std::vector<RegionSpec> specs = memory.specs();
  const auto removed = std::erase_if(
      specs, [&](const RegionSpec& spec) { return spec.start == start && spec.length == size; });
  if (removed == 0) {
    return fail(ErrorKind::kOutOfRange, "region of guest memory to remove", start.raw());
  }
  auto result = GuestMemory::create(specs);
  if (!result) return result;
  return result->with_dirty_log(memory.dirty_log());
}

}  // namespace guestio::mem
