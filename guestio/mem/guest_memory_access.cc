// SPDX-License-Identifier: MIT
// The slow path of reads and writes: several regions, bitmaps, faults, fallbacks.
#include <algorithm>
#include <cstring>

#include "guestio/mem/guest_memory.h"
#include "guestio/mem/guest_memory_check.h"
#include "guestio/mem/guest_memory_table.h"

namespace guestio::mem {

namespace {

using internal::Region;
using internal::RegionSlice;
using internal::Table;

// The operations. Each implements direct and fallback access to a range, and names the guest's side
// of a direct copy.

struct ReadBytes {
  static constexpr Access kAccess = Access::kRead;
  static constexpr FaultSide kGuestSide = FaultSide::kSource;
  std::byte* local;

  CopyOutcome direct(std::byte* host, std::uint64_t length) const noexcept {
    return try_copy_outcome(local, host, length);
  }
  Result<> fall_back(Backing& backing, std::uint64_t offset, std::uint64_t length) const noexcept {
    return backing.read_fallback(offset, {local, length});
  }
  void advance(std::uint64_t count) noexcept { local += count; }
};

struct WriteBytes {
  static constexpr Access kAccess = Access::kWrite;
  static constexpr FaultSide kGuestSide = FaultSide::kDestination;
  const std::byte* local;

  CopyOutcome direct(std::byte* host, std::uint64_t length) const noexcept {
    return try_copy_outcome(host, local, length);
  }
  Result<> fall_back(Backing& backing, std::uint64_t offset, std::uint64_t length) const noexcept {
    return backing.write_fallback(offset, {local, length});
  }
  void advance(std::uint64_t count) noexcept { local += count; }
};

struct FillBytes {
  static constexpr Access kAccess = Access::kWrite;
  static constexpr FaultSide kGuestSide = FaultSide::kDestination;
  std::byte value;
  const std::byte* local = nullptr;  // no buffer, hence no fault on it

  CopyOutcome direct(std::byte* host, std::uint64_t length) const noexcept {
    const std::size_t done = try_fill(host, value, length);
    return {done, done == length ? FaultSide::kNone : FaultSide::kDestination};
  }
  Result<> fall_back(Backing& backing, std::uint64_t offset, std::uint64_t length) const noexcept {
    return backing.fill_fallback(offset, value, length);
  }
  void advance(std::uint64_t) noexcept {}
};

/// One load instruction for a word in one slice. A faulting word is copied byte by byte, to find
/// the missing page.
template <typename Bits>
struct LoadWord : ReadBytes {
  CopyOutcome direct(std::byte* host, std::uint64_t length) const noexcept {
    Bits bits;
    if (length != sizeof(Bits) || !internal::load(host, bits)) {
      return ReadBytes::direct(host, length);
    }
    std::memcpy(local, &bits, sizeof(bits));
    return {length, FaultSide::kNone};
  }
};

template <typename Bits>
struct StoreWord : WriteBytes {
  CopyOutcome direct(std::byte* host, std::uint64_t length) const noexcept {
    Bits bits;
    if (length != sizeof(Bits)) return WriteBytes::direct(host, length);
    std::memcpy(&bits, local, sizeof(bits));
    if (!internal::store(host, bits)) return WriteBytes::direct(host, length);
    return {length, FaultSide::kNone};
  }
};

/// Marks a completed write in the dirty log.
Result<> log_write(const Table& table, const RegionSlice& slice, std::uint64_t length) noexcept {
  if (table.log == nullptr || length == 0) return {};
  return table.log->mark(
      AddressRange::from_checked(Gpa(slice.region->log_address + slice.at), length));
}

/// The directly accessible bytes from the front of the slice; 0: denied or unmapped.
std::uint64_t direct_length(const RegionSlice& slice, Access access) noexcept {
  const Region& region = *slice.region;
  if (slice.at >= region.mapped) return 0;
  const std::uint64_t length = std::min(slice.length, region.mapped - slice.at);
  const auto& bitmap = region.bitmap(access);
  return bitmap ? internal::allowed_bytes(*bitmap, slice.backing_offset(), length) : length;
}

/// One access to one region: direct where possible, otherwise as the backing decides.
template <typename Operation>
class SliceAccess {
 public:
  SliceAccess(const Table& table, const RegionSlice& slice, Operation& operation) noexcept
      : table_(table), slice_(slice), operation_(operation) {}

  Result<> run() noexcept {
    if (Result<> writable = internal::check_writable(slice_, Operation::kAccess); !writable) {
      return writable;
    }
    while (slice_.length != 0) {
      if (slice_.at >= slice_.region->mapped) return fall_back(slice_.length);
      if (Result<> stepped = step(); !stepped) return stepped;
    }
    return {};
  }

 private:
  static constexpr bool kWrites = Operation::kAccess == Access::kWrite;

  /// Accesses the directly accessible bytes at the front.
  Result<> step() noexcept {
    const std::uint64_t length = direct_length(slice_, Operation::kAccess);
    if (length == 0) return after_fault(PageFault::Cause::kDenied);
    const CopyOutcome outcome = operation_.direct(slice_.host(), length);
    if (Result<> done = advance(outcome.done); !done) return done;
    if (outcome.fault == FaultSide::kNone) return {};
    if (outcome.fault != Operation::kGuestSide) {
      return fail(ErrorKind::kMemoryFault, "buffer of the caller",
                  reinterpret_cast<std::uintptr_t>(operation_.local));
    }
    return after_fault(PageFault::Cause::kFaulted);
  }

  Result<> after_fault(PageFault::Cause cause) noexcept {
    switch (faults_.decide(slice_, Operation::kAccess, cause)) {
      case FaultAction::kRetry: return {};
      case FaultAction::kFallBack: return fall_back(internal::length_in_page(slice_));
      case FaultAction::kFail: break;
    }
    return internal::fail_fault(slice_, cause);
  }

  Result<> fall_back(std::uint64_t length) noexcept {
    Backing& backing = *slice_.region->backing;
    if (Result<> done = operation_.fall_back(backing, slice_.backing_offset(), length); !done) {
      return done;
    }
    return advance(length);
  }

  Result<> advance(std::uint64_t count) noexcept {
    if (count == 0) return {};
    faults_.note_progress();
    operation_.advance(count);
    const RegionSlice done = slice_;
    slice_.at += count;
    slice_.length -= count;
    if constexpr (kWrites) return log_write(table_, done, count);
    return {};
  }

  const Table& table_;
  RegionSlice slice_;
  Operation& operation_;
  internal::FaultHandling faults_;
};

template <typename Operation>
[[gnu::noinline]] Result<> access_pieces(const Table& table, const Region* first,
                                         const AddressRange& range, Operation operation) noexcept {
  return internal::for_each_slice(table, first, range, [&](const RegionSlice& slice) {
    return SliceAccess<Operation>(table, slice, operation).run();
  });
}

/// Small, so that an invalid address costs no more than the table look-up.
template <typename Operation>
Result<> access(const Table& table, Gpa start, std::uint64_t length, Operation operation) noexcept {
  if (length == 0) return {};
  const Region* const first = table.find(start.raw());
  if (first == nullptr) return internal::fail_outside(table, start.raw());
  // No region extends past the last address, so no access reaches beyond it.
  const std::uint64_t reachable = ~start.raw();
  if (length - 1 > reachable) return internal::fail_outside(table, table.end());
  return access_pieces(table, first, AddressRange::from_checked(start, length), operation);
}

}  // namespace

Result<> GuestMemory::read_slow_path(Gpa from, std::span<std::byte> to) const noexcept {
  return access(table(), from, to.size(), ReadBytes{to.data()});
}

Result<> GuestMemory::write_slow_path(Gpa to, std::span<const std::byte> from) const noexcept {
  return access(table(), to, from.size(), WriteBytes{from.data()});
}

Result<> GuestMemory::fill_slow_path(Gpa to, std::byte value, std::uint64_t length) const noexcept {
  return access(table(), to, length, FillBytes{value});
}

Result<> GuestMemory::load_slow_path(Gpa from, std::span<std::byte> to) const noexcept {
  switch (to.size()) {
    case 2: return access(table(), from, 2, LoadWord<std::uint16_t>{{to.data()}});
    case 4: return access(table(), from, 4, LoadWord<std::uint32_t>{{to.data()}});
    case 8: return access(table(), from, 8, LoadWord<std::uint64_t>{{to.data()}});
    default: return read_slow_path(from, to);
  }
}

Result<> GuestMemory::store_slow_path(Gpa to, std::span<const std::byte> from) const noexcept {
  switch (from.size()) {
    case 2: return access(table(), to, 2, StoreWord<std::uint16_t>{{from.data()}});
    case 4: return access(table(), to, 4, StoreWord<std::uint32_t>{{from.data()}});
    case 8: return access(table(), to, 8, StoreWord<std::uint64_t>{{from.data()}});
    default: return write_slow_path(to, from);
  }
}

namespace {

/// Requires: length <= range.length().
template <typename Range>
Range first_bytes(const Range& range, std::uint64_t length) noexcept {
  if constexpr (std::same_as<Range, AddressRange>) {
    return range.subrange(0, length);
  } else {
    Range first = range;
    first.truncate(length);
    return first;
  }
}

}  // namespace

template <GuestRange Range>
Result<> GuestMemory::read(const Range& from, std::span<std::byte> to) const noexcept {
  if (to.size() > from.length()) return internal::fail_outside_window(0, to.size(), from.length());
  std::byte* next = to.data();
  return for_each_run(first_bytes(from, to.size()), [&](const AddressRange& run) {
    std::byte* const local = next;
    next += run.length();
    return read(run.start(), {local, run.length()});
  });
}

template <GuestRange Range>
Result<> GuestMemory::write(const Range& to, std::span<const std::byte> from) const noexcept {
  if (from.size() > to.length()) {
    return internal::fail_outside_window(0, from.size(), to.length());
  }
  const std::byte* next = from.data();
  return for_each_run(first_bytes(to, from.size()), [&](const AddressRange& run) {
    const std::byte* const local = next;
    next += run.length();
    return write(run.start(), {local, run.length()});
  });
}

template <GuestRange Range>
Result<> GuestMemory::fill(const Range& to, std::byte value, std::uint64_t length) const noexcept {
  if (length > to.length()) return internal::fail_outside_window(0, length, to.length());
  return for_each_run(first_bytes(to, length), [&](const AddressRange& run) {
    return fill(run.start(), value, run.length());
  });
}

template <GuestRange Range>
Result<> GuestMemory::mark_written(const Range& range) const noexcept {
  if (table().log == nullptr) return {};
  const Region* hint = nullptr;
  return for_each_run(range, [&](const AddressRange& run) {
    return internal::for_each_slice(table(), hint, run, [&](const RegionSlice& slice) {
      return log_write(table(), slice, slice.length);
    });
  });
}

#define GUESTIO_INSTANTIATE(Range)                                                               \
  template Result<> GuestMemory::read(const Range&, std::span<std::byte>) const noexcept;        \
  template Result<> GuestMemory::write(const Range&, std::span<const std::byte>) const noexcept; \
  template Result<> GuestMemory::fill(const Range&, std::byte, std::uint64_t) const noexcept;    \
  template Result<> GuestMemory::mark_written(const Range&) const noexcept;
GUESTIO_INSTANTIATE(PagedRange)
GUESTIO_INSTANTIATE(AddressRange)
GUESTIO_INSTANTIATE(PagedRanges)
GUESTIO_INSTANTIATE(AddressRanges)
#undef GUESTIO_INSTANTIATE
template Result<> GuestMemory::mark_written(const AnyRange&) const noexcept;

}  // namespace guestio::mem
