// SPDX-License-Identifier: MIT
// Guest memory for the kernel: locks and probes.
#include <algorithm>

#include "guestio/mem/any_range.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/guest_memory_check.h"
#include "guestio/mem/guest_memory_table.h"

namespace guestio::mem {

using internal::Piece;
using internal::Region;
using internal::Table;

namespace {

bool touch(std::byte* host, Access access) noexcept {
  return access == Access::kWrite ? probe_write(host) : probe_read(host);
}

enum class Touch : std::uint8_t { kNo, kYes };
/// What became of a page: it can be used in place, or only through the backing's fallback.
enum class PageUse : std::uint8_t { kDirect, kFallBack };

/// Asks for the page at the front of the piece what an access would ask.
Result<PageUse> check_page(const Piece& piece, Access access, Touch touching) noexcept {
  const Region& region = *piece.region;
  if (piece.at >= region.mapped) return PageUse::kFallBack;
  const auto& bitmap = region.bitmap(access);
  internal::FaultHandling faults;
  for (;;) {
    PageFault::Cause cause = PageFault::Cause::kDenied;
    if (!bitmap || internal::is_allowed(*bitmap, piece.backing_offset())) {
      if (touching == Touch::kNo || touch(piece.host(), access)) return PageUse::kDirect;
      cause = PageFault::Cause::kFaulted;
    }
    switch (faults.ask(piece, access, cause)) {
      case FaultAction::kRetry: break;
      case FaultAction::kFallBack: return PageUse::kFallBack;
      case FaultAction::kFail: return internal::fail_fault(piece, cause);
    }
  }
}

/// Calls `visit(Piece)` for the parts of the piece page by page.
template <typename Visit>
Result<> for_each_page(Piece piece, Visit&& visit) noexcept {
  while (piece.length != 0) {
    const std::uint64_t length = internal::length_in_page(piece);
    if (Result<> visited = visit(Piece{piece.region, piece.at, length}); !visited) return visited;
    piece.at += length;
    piece.length -= length;
  }
  return {};
}

/// As check_page() for every page; a fallback is no use to the kernel.
Result<> check_for_lock(const Piece& piece, Access access) noexcept {
  const Region& region = *piece.region;
  if (piece.length > region.mapped - std::min(region.mapped, piece.at)) {
    return fail(ErrorKind::kNotLockable, "guest memory without a mapping", piece.address().raw());
  }
  const Touch touching = region.lock_mode == LockMode::kProbe ? Touch::kYes : Touch::kNo;
  return for_each_page(piece, [&](const Piece& page) -> Result<> {
    const auto use = check_page(page, access, touching);
    if (!use) return fail(use.error());
    if (*use == PageUse::kDirect) return {};
    return fail(ErrorKind::kNotLockable, "guest memory", page.address().raw());
  });
}

Result<> probe_piece(const Piece& piece, Access access) noexcept {
  if (Result<> writable = internal::check_writable(piece, access); !writable) return writable;
  return for_each_page(piece, [&](const Piece& page) -> Result<> {
    const auto use = check_page(page, access, Touch::kYes);
    if (!use) return fail(use.error());
    if (*use == PageUse::kDirect || access == Access::kWrite) return {};
    // A byte can be read for trial; one cannot be written without changing it.
    std::byte ignored{};
    return page.region->backing->read_fallback(page.backing_offset(), {&ignored, 1});
  });
}

}  // namespace

namespace {

/// Joins `next` to `open` where they meet, or puts `open` into the list. Returns what is open now.
[[gnu::always_inline]] inline HostSegment append(SegmentList& segments, HostSegment open,
                                                 HostSegment next) {
  if (open.end() == next.data) return {open.data, open.length + next.length};
  if (open.length != 0) segments.push_back(open);
  return next;
}

/// Bytes that the kernel can be given as they are.
struct FreeBytes {
  std::uint64_t start;
  std::uint64_t length;
  std::byte* host;
};

/// The segments of a range that lies in `free` throughout. False: it does not, and `segments` is
/// empty. All that the loop needs is in registers: it does a page in a few cycles.
template <GuestRange Range>
[[gnu::noinline]] bool lock_free_bytes(const FreeBytes& free, const Range& range,
                                       SegmentList& segments) {
  SegmentList::Room room = segments.room();
  HostSegment open;
  const Result<> inside = for_each_run(range, [&](const AddressRange& run) -> Result<> {
    const std::uint64_t at = run.start().raw() - free.start;
    if (at >= free.length || run.length() > free.length - at) [[unlikely]]
      return fail(ErrorKind::kOutOfRange, "bytes that need no more than an address");
    std::byte* const host = free.host + at;
    if (open.end() == host) {
      open.length += run.length();
      return {};
    }
    if (open.length != 0) [[likely]] {
      if (room.next == room.end) [[unlikely]]
        room = segments.more_room(room.next);
      *room.next++ = open;
    }
    open = {host, run.length()};
    return {};
  });
  if (!inside) [[unlikely]] {
    segments.clear();
    return false;
  }
  segments.use_room(room.next);
  if (open.length != 0) segments.push_back(open);
  return true;
}

// A loop of its own for each kind: one for all of them keeps nothing in registers.
template <>
bool lock_free_bytes(const FreeBytes& free, const AnyRange& range, SegmentList& segments) {
  return range.visit([&](const auto& of_kind) { return lock_free_bytes(free, of_kind, segments); });
}

}  // namespace

/// Collects the segments of one lock and what has to be undone.
struct internal::LockBuilder {
  const Table& table;
  Access access;
  SegmentList& segments;
  PageLock& lock;
  const Region* hint = nullptr;
  HostSegment open = {};  ///< may still grow; not in `segments` yet

  Result<> add(const AddressRange& run) {
    return for_each_piece(table, hint, run, [this](const Piece& piece) -> Result<> {
      if (Result<> held = hold(piece); !held) return held;
      open = append(segments, open, {piece.host(), piece.length});
      return {};
    });
  }

  Result<> hold(const Piece& piece) {
    const Region& region = *piece.region;
    if (region.is_free_to_lock(access)) [[likely]]
      return {};
    if (Result<> writable = internal::check_writable(piece, access); !writable) return writable;
    if (Result<> good = check_for_lock(piece, access); !good) return good;
    if (region.lock_mode != LockMode::kLockPages) return {};
    // Written down first: after a successful lock nothing may fail before it can be undone.
    if (lock.held_ == nullptr) lock.held_ = std::make_unique<std::vector<PageLock::Held>>();
    lock.held_->push_back({region.backing, piece.backing_offset(), piece.length});
    const Result<> locked = region.backing->lock_pages(piece.backing_offset(), piece.length);
    if (!locked) lock.held_->pop_back();
    return locked;
  }
};

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
  internal::LockBuilder builder{table(), access, segments, lock};
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
    return internal::for_each_piece(table(), hint, run,
                                    [&](const Piece& piece) { return probe_piece(piece, access); });
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
