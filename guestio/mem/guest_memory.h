// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/mem/address_range.h"
#include "guestio/mem/any_range.h"
#include "guestio/mem/backing.h"
#include "guestio/mem/dirty_log.h"
#include "guestio/mem/host_segment.h"
#include "guestio/mem/page_lock.h"
#include "guestio/mem/paged_ranges.h"
#include "guestio/mem/recover.h"

/// The memory of a virtual machine, as seen by a device.
namespace guestio::mem {

namespace internal {
struct Table;
}

/// A part of a backing at a guest address.
struct RegionSpec {
  Gpa start;
  ByteCount length;
  std::shared_ptr<Backing> backing;
  std::uint64_t offset = 0;  ///< of the region's first byte in the backing
};

/// One region and its host mapping.
struct RegionInfo {
  Gpa start;
  std::uint64_t length;
  std::byte* host;  ///< of the first byte; nullptr for unmapped memory
  Mapping::Access access;
};

/// A ShareableRange in guest addresses. The memory owns the descriptor.
struct ShareableRegion {
  Gpa start;
  std::uint64_t length;
  int fd;
  FileOffset file_offset;
};

/// A handle to the memory of one virtual machine: an immutable table of regions.
///
///     guest:   0        640K   1M                3G          4G              5G
///              [ region 0 ]    [    region 1     ]  (a hole) [   region 2    ]
///                   |                  |                             |
///     backing:   mapping            mapping                  mapping + bitmaps
///
/// A change of the memory makes a new GuestMemory; copies of the old one keep the old regions
/// mapped. Guest memory is untrusted: no operation here can crash, whatever the guest or the owner
/// of its memory files does. Faults become errors.
///
///     const auto memory = map_file_regions(regions);         // mapped_memory.h; or create()
///     const auto index = memory->load<std::uint16_t>(gpa);   // one instruction, or an error
///     const auto done = memory->write(range, bytes);
///
/// Ranges: `read`, `write` and so on take a Gpa or a GuestRange (PagedRange, AddressRange,
/// PagedRanges, AddressRanges). They use the first bytes of a longer range.
///
/// Errors, of every access: out-of-range (value: the first address outside; limit: the end of
/// memory, or for a range: bytes asked for and bytes there), invalid-gpn, read-only, access-denied
/// and memory-fault (value: the guest address; for a fault in the caller's own buffer its host
/// address, with a text of its own). A failed access may have been done in part. An access of zero
/// bytes succeeds at any address.
///
/// Threads: any, concurrently; assignment to a handle needs the usual synchronization. A copy costs
/// one atomic increment.
class GuestMemory {
 public:
  /// No memory; also the state after a move.
  GuestMemory() noexcept = default;
  GuestMemory(const GuestMemory&) noexcept = default;
  GuestMemory& operator=(const GuestMemory&) noexcept = default;
  GuestMemory(GuestMemory&& other) noexcept { swap(other); }
  GuestMemory& operator=(GuestMemory&& other) noexcept {
    GuestMemory(std::move(other)).swap(*this);
    return *this;
  }
  ~GuestMemory() = default;
  void swap(GuestMemory& other) noexcept {
    std::swap(table_, other.table_);
    std::swap(window_, other.window_);
  }

  /// Errors: invalid-argument (a region that is empty, has no backing or overlaps another),
  /// out-of-range (a region beyond its backing or the address space).
  [[nodiscard]] static Result<GuestMemory> create(std::span<const RegionSpec> regions);
  /// Private zero-filled memory from `start` on. Errors: as create(), host.
  [[nodiscard]] static Result<GuestMemory> allocate(ByteCount size, Gpa start = Gpa(0));

  // Copies.

  [[nodiscard, gnu::always_inline]] Result<> read(Gpa from,
                                                  std::span<std::byte> to) const noexcept {
    const std::byte* host = host_of(from, to.size(), window_.readable);
    if (host != nullptr) [[likely]] {
      if (try_copy(to.data(), host, to.size()) == to.size()) [[likely]]
        return {};
    }
    return read_slow_path(from, to);
  }
  [[nodiscard, gnu::always_inline]] Result<> write(Gpa to,
                                                   std::span<const std::byte> from) const noexcept {
    std::byte* host = host_of(to, from.size(), window_.writable);
    if (host != nullptr) [[likely]] {
      if (try_copy(host, from.data(), from.size()) == from.size()) [[likely]]
        return {};
    }
    return write_slow_path(to, from);
  }
  [[nodiscard]] Result<> fill(Gpa to, std::byte value, std::uint64_t length) const noexcept {
    std::byte* host = host_of(to, length, window_.writable);
    if (host != nullptr) [[likely]] {
      if (try_fill(host, value, length) == length) [[likely]]
        return {};
    }
    return fill_slow_path(to, value, length);
  }

  template <GuestRange Range>
  [[nodiscard]] Result<> read(const Range& from, std::span<std::byte> to) const noexcept;
  template <GuestRange Range>
  [[nodiscard]] Result<> write(const Range& to, std::span<const std::byte> from) const noexcept;
  template <GuestRange Range>
  [[nodiscard]] Result<> fill(const Range& to, std::byte value,
                              std::uint64_t length) const noexcept;

  // Typed accesses: one plain load or store instruction when the address is a multiple of
  // sizeof(T).

  template <Word T>
  [[nodiscard]] Result<T> load(Gpa from) const noexcept {
    const std::byte* host = host_of(from, sizeof(T), window_.readable);
    internal::Bits<T> bits{};
    if (host == nullptr || !internal::load(host, bits)) [[unlikely]] {
      if (Result<> read = load_slow_path(from, object_bytes(bits)); !read)
        return fail(read.error());
    }
    return std::bit_cast<T>(bits);
  }
  template <Word T>
  [[nodiscard]] Result<> store(Gpa to, std::type_identity_t<T> value) const noexcept {
    const auto bits = std::bit_cast<internal::Bits<T>>(value);
    std::byte* host = host_of(to, sizeof(T), window_.writable);
    if (host != nullptr && internal::store(host, bits)) [[likely]]
      return {};
    return store_slow_path(to, object_bytes(bits));
  }
  /// Stores `desired` if the value equals `expected`, atomically. Otherwise returns false, with the
  /// found value in `expected`. Errors: also misaligned if the address is no multiple of sizeof(T).
  template <Word T>
  [[nodiscard]] Result<bool> compare_exchange(Gpa at, T& expected,
                                              std::type_identity_t<T> desired) const noexcept {
    auto bits = std::bit_cast<internal::Bits<T>>(expected);
    const auto value = std::bit_cast<internal::Bits<T>>(desired);
    const Result<bool> exchanged =
        compare_exchange_bytes(at, object_bytes(bits), object_bytes(value));
    if (exchanged && !*exchanged) expected = std::bit_cast<T>(bits);
    return exchanged;
  }

  /// Prefetches a cache line that another processor has just written, to be read and then written.
  /// A hint: a no-op off the fast path.
  void prefetch_for_write(Gpa at) const noexcept {
    const std::byte* host = host_of(at, 1, window_.writable);
    if (host != nullptr) internal::prefetch_for_write(host);
  }

  // For use by the kernel, and for structures accessed in place.

  /// Writes the host segments of the range to `segments` (cleared first), merged where adjacent in
  /// host memory, and locks the pages for the lifetime of the result. All or nothing: after an
  /// error nothing is locked and `segments` is empty. Errors: also not-lockable.
  template <GuestRange Range>
  [[nodiscard]] Result<PageLock> lock(const Range& range, Access access,
                                      SegmentList& segments) const {
    PageLock lock;
    if (Result<> locked = lock_into(lock, range, access, segments); !locked) {
      return fail(locked.error());
    }
    return lock;
  }
  /// The same, into an existing lock. Requires: it is empty.
  template <GuestRange Range>
  [[nodiscard]] Result<> lock_into(PageLock& lock, const Range& range, Access access,
                                   SegmentList& segments) const;
  /// The same for the ranges of a descriptor chain.
  [[nodiscard]] Result<PageLock> lock(std::span<const AddressRange> ranges, Access access,
                                      SegmentList& segments) const {
    const auto list = AddressRanges::from_ranges(ranges);
    if (!list) return fail(list.error());
    return lock(*list, access, segments);
  }
  /// Touches a byte of each page. Errors: the range is not accessible now.
  template <GuestRange Range>
  [[nodiscard]] Result<> probe(const Range& range, Access access) const noexcept;
  /// The host address of bytes in one region, for structures accessed in place with recover.h;
  /// nullptr for zero bytes. Errors: also not-lockable if accesses need more than the mapping
  /// (bitmaps, page locks) or the region is unmapped.
  [[nodiscard]] Result<std::byte*> host_range(Gpa start, std::uint64_t length) const noexcept;
  /// As host_range() for reads only, on the fast path of one comparison. nullptr: use host_range().
  [[nodiscard]] const std::byte* fast_host_range(Gpa start, std::uint64_t length) const noexcept {
    return host_of(start, length, window_.readable);
  }
  /// Backing::expose() for the range.
  [[nodiscard]] Result<> expose(const AddressRange& range) const noexcept;
  /// The device address of a byte; nullopt if its memory is not mapped for devices.
  [[nodiscard]] std::optional<std::uint64_t> iova(Gpa address) const noexcept;

  // Views and descriptions.

  /// The bytes of the range as a memory that starts at 0. It shares the backings and their
  /// requirements. Holes stay holes. Errors: out-of-range past the last region.
  [[nodiscard]] Result<GuestMemory> subrange(const AddressRange& range) const;
  /// The same memory with dirty logging of writes into `log`; nullptr disables logging.
  [[nodiscard]] GuestMemory with_dirty_log(std::shared_ptr<const DirtyLog> log) const;
  /// Marks bytes written by the kernel through a lock. A no-op without a log.
  /// Errors: of DirtyLog::mark(), out-of-range.
  template <GuestRange Range>
  [[nodiscard]] Result<> mark_written(const Range& range) const noexcept;
  [[nodiscard]] std::shared_ptr<const DirtyLog> dirty_log() const noexcept;

  /// In ascending order.
  [[nodiscard]] std::vector<RegionInfo> regions() const;
  /// The input of create() for the same memory, or for one that differs by a region.
  [[nodiscard]] std::vector<RegionSpec> specs() const;
  [[nodiscard]] std::vector<ShareableRegion> shareable_regions() const;
  /// The address after the last region; 0 without regions, or for 2^64.
  [[nodiscard]] Gpa end() const noexcept;

 private:
  explicit GuestMemory(std::shared_ptr<const internal::Table> table) noexcept;

  /// The fast path: the host address of an access inside the window; nullptr outside.
  [[nodiscard]] std::byte* host_of(Gpa address, std::uint64_t length,
                                   std::uint64_t limit) const noexcept {
    const std::uint64_t at = address.raw() - window_.start;
    if (length > limit || at > limit - length) [[unlikely]]
      return nullptr;
    return window_.host + at;
  }
  template <typename Bits>
  static std::span<std::byte> object_bytes(Bits& bits) noexcept {
    return std::as_writable_bytes(std::span(&bits, 1));
  }
  template <typename Bits>
  static std::span<const std::byte> object_bytes(const Bits& bits) noexcept {
    return std::as_bytes(std::span(&bits, 1));
  }

  [[nodiscard]] Result<> read_slow_path(Gpa from, std::span<std::byte> to) const noexcept;
  [[nodiscard]] Result<> write_slow_path(Gpa to, std::span<const std::byte> from) const noexcept;
  [[nodiscard]] Result<> fill_slow_path(Gpa to, std::byte value,
                                        std::uint64_t length) const noexcept;
  [[nodiscard]] Result<> load_slow_path(Gpa from, std::span<std::byte> to) const noexcept;
  [[nodiscard]] Result<> store_slow_path(Gpa to, std::span<const std::byte> from) const noexcept;
  [[nodiscard]] Result<bool> compare_exchange_bytes(
      Gpa at, std::span<std::byte> expected, std::span<const std::byte> desired) const noexcept;

  /// The largest plain region, cached in the handle for the fast path of most accesses. The limits
  /// are 0 if an access needs more than a copy.
  struct Window {
    std::uint64_t start = 0;
    std::byte* host = nullptr;
    std::uint64_t readable = 0;
    std::uint64_t writable = 0;
    bool is_free_to_lock = false;  ///< within readable or writable
  };

  [[nodiscard]] const internal::Table& table() const noexcept;

  std::shared_ptr<const internal::Table> table_;
  Window window_;
};

// Inline, so that an AnyRange made for one call dispatches at compile time.
template <>
[[gnu::always_inline]] inline Result<> GuestMemory::read(const AnyRange& from,
                                                         std::span<std::byte> to) const noexcept {
  return from.visit([&](const auto& of_kind) { return read(of_kind, to); });
}
template <>
[[gnu::always_inline]] inline Result<> GuestMemory::write(
    const AnyRange& to, std::span<const std::byte> from) const noexcept {
  return to.visit([&](const auto& of_kind) { return write(of_kind, from); });
}
template <>
[[gnu::always_inline]] inline Result<> GuestMemory::fill(const AnyRange& to, std::byte value,
                                                         std::uint64_t length) const noexcept {
  return to.visit([&](const auto& of_kind) { return fill(of_kind, value, length); });
}

}  // namespace guestio::mem
