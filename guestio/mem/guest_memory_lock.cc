// SPDX-License-Identifier: MIT
// Locks and probes of guest memory, for use by the kernel.
#include <algorithm>

#include "guestio/mem/any_range.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/guest_memory_check.h"
#include "guestio/mem/guest_memory_table.h"

namespace guestio::mem {

using internal::Region;
using internal::RegionSlice;
using internal::Table;

namespace {

bool touch(std::byte* host, Access access) noexcept {
  return access == Access::kWrite ? probe_write(host) : probe_read(host);
}

enum class Touch : std::uint8_t { kNo, kYes };
/// The state of a page: usable in place, or only through the backing's fallback.
enum class PageUse : std::uint8_t { kDirect, kFallBack };

/// Checks the page at the front of the slice as an access would.
Result<PageUse> check_page(const RegionSlice& slice, Access access, Touch touching) noexcept {
  const Region& region = *slice.region;
  if (slice.at >= region.mapped) return PageUse::kFallBack;
  const auto& bitmap = region.bitmap(access);
  internal::FaultHandling faults;
  for (;;) {
    PageFault::Cause cause = PageFault::Cause::kDenied;
    if (!bitmap || internal::is_allowed(*bitmap, slice.backing_offset())) {
      if (touching == Touch::kNo || touch(slice.host(), access)) return PageUse::kDirect;
      cause = PageFault::Cause::kFaulted;
    }
    switch (faults.decide(slice, access, cause)) {
      case FaultAction::kRetry: break;
      case FaultAction::kFallBack: return PageUse::kFallBack;
      case FaultAction::kFail: return internal::fail_fault(slice, cause);
    }
  }
}

/// Calls `visit(RegionSlice)` for the slice page by page.
template <typename Visit>
Result<> for_each_page(RegionSlice slice, Visit&& visit) noexcept {
  while (slice.length != 0) {
    const std::uint64_t length = internal::length_in_page(slice);
    if (Result<> visited = visit(RegionSlice{slice.region, slice.at, length}); !visited)
      return visited;
    slice.at += length;
    slice.length -= length;
  }
  return {};
}

/// As check_page() for every page. The kernel cannot use a fallback.
Result<> check_for_lock(const RegionSlice& slice, Access access) noexcept {
  const Region& region = *slice.region;
  if (slice.length > region.mapped - std::min(region.mapped, slice.at)) {
    return fail(ErrorKind::kNotLockable, "guest memory without a mapping", slice.address().raw());
  }
  const Touch touching = region.lock_mode == LockMode::kProbe ? Touch::kYes : Touch::kNo;
  return for_each_page(slice, [&](const RegionSlice& page) -> Result<> {
    const auto use = check_page(page, access, touching);
    if (!use) return fail(use.error());
    if (*use == PageUse::kDirect) return {};
    return fail(ErrorKind::kNotLockable, "guest memory", page.address().raw());
  });
}

Result<> probe_piece(const RegionSlice& slice, Access access) noexcept {
  if (Result<> writable = internal::check_writable(slice, access); !writable) return writable;
  return for_each_page(slice, [&](const RegionSlice& page) -> Result<> {
    const auto use = check_page(page, access, Touch::kYes);
    if (!use) return fail(use.error());
    if (*use == PageUse::kDirect || access == Access::kWrite) return {};
    // Reading a byte is a harmless probe, writing one is not.
    std::byte ignored{};
    return page.region->backing->read_fallback(page.backing_offset(), {&ignored, 1});
  });
}

}  // namespace

namespace {

/// Merges `next` into `open` if adjacent, otherwise appends `open` to the list. Returns the segment
/// that is open now.
[[gnu::always_inline]] inline HostSegment append(SegmentList& segments, HostSegment open,
                                                 HostSegment next) {
  if (open.end() == next.data) return {open.data, open.length + next.length};
  if (open.length != 0) segments.push_back(open);
  return next;
}

/// Bytes usable by the kernel without page locks.
struct FreeBytes {
  std::uint64_t start;
  std::uint64_t length;
  std::byte* host;
};

/// The segments of a range inside `free`. False: the range leaves it, and `segments` is empty. The
/// loop runs in registers, at a few cycles a page.
template <GuestRange Range>
[[gnu::noinline]] bool lock_free_bytes(const FreeBytes& free, const Range& range,
                                       SegmentList& segments) {
  SegmentList::Spare spare = segments.spare();
  HostSegment open;
  const Result<> inside = for_each_run(range, [&](const AddressRange& run) -> Result<> {
    const std::uint64_t at = run.start().raw() - free.start;
    if (at >= free.length || run.length() > free.length - at) [[unlikely]]
      return fail(ErrorKind::kOutOfRange, "guest range on the fast path of a lock");
    std::byte* const host = free.host + at;
    if (open.end() == host) {
      open.length += run.length();
      return {};
    }
    if (open.length != 0) [[likely]] {
      if (spare.next == spare.end) [[unlikely]]
        spare = segments.grow_spare(spare.next);
      *spare.next++ = open;
    }
    open = {host, run.length()};
    return {};
  });
  if (!inside) [[unlikely]] {
    segments.clear();
    return false;
  }
  segments.commit(spare.next);
  if (open.length != 0) segments.push_back(open);
  return true;
}

// A separate loop for each kind: a common one keeps nothing in registers.
template <>
bool lock_free_bytes(const FreeBytes& free, const AnyRange& range, SegmentList& segments) {
  return range.visit([&](const auto& of_kind) { return lock_free_bytes(free, of_kind, segments); });
}

/// Collects the segments of one lock and the page locks to undo.
struct LockBuilder {
  const Table& table;
  Access access;
  SegmentList& segments;
  PageLock& lock;
  const Region* hint = nullptr;
  HostSegment open = {};  ///< may still grow; not yet in `segments`

  Result<> add(const AddressRange& run) {
    return for_each_slice(table, hint, run, [this](const RegionSlice& slice) -> Result<> {
      if (Result<> held = hold(slice); !held) return held;
      open = append(segments, open, {slice.host(), slice.length});
      return {};
    });
  }

  Result<> hold(const RegionSlice& slice) {
    const Region& region = *slice.region;
    if (region.is_free_to_lock(access)) [[likely]]
      return {};
    if (Result<> writable = internal::check_writable(slice, access); !writable) return writable;
    if (Result<> good = check_for_lock(slice, access); !good) return good;
    if (region.lock_mode != LockMode::kLockPages) return {};
    return lock.add(region.backing, slice.backing_offset(), slice.length);
  }
};

}  // namespace

template <GuestRange Range>
Result<> GuestMemory::lock_into(PageLock& lock, const Range& range, Access access,
                                SegmentList& segments) const {
  segments.clear();
  if (window_.is_free_to_lock) [[likely]] {
    const std::uint64_t length = access == Access::kWrite ? window_.writable : window_.readable;
    const FreeBytes free{window_.start, length, window_.host};
    if (lock_free_bytes(free, range, segments)) [[likely]]
      return {};
  }
  LockBuilder builder{table(), access, segments, lock};
  Result<> added = for_each_run(range, [&](const AddressRange& run) { return builder.add(run); });
  if (!added) [[unlikely]] {
    segments.clear();
    lock.release();
    return added;
  }
  if (builder.open.length != 0) segments.push_back(builder.open);
  return {};
}

template <GuestRange Range>
Result<> GuestMemory::probe(const Range& range, Access access) const noexcept {
  const Region* hint = nullptr;
  return for_each_run(range, [&](const AddressRange& run) {
    return internal::for_each_slice(
        table(), hint, run, [&](const RegionSlice& slice) { return probe_piece(slice, access); });
  });
}

#define GUESTIO_INSTANTIATE(Range)                                                               \
  template Result<> GuestMemory::lock_into(PageLock&, const Range&, Access, SegmentList&) const; \
  template Result<> GuestMemory::probe(const Range&, Access) const noexcept;
GUESTIO_INSTANTIATE(PagedRange)
GUESTIO_INSTANTIATE(AddressRange)
GUESTIO_INSTANTIATE(PagedRanges)
GUESTIO_INSTANTIATE(AddressRanges)
GUESTIO_INSTANTIATE(AnyRange)
#undef GUESTIO_INSTANTIATE

}  // namespace guestio::mem
