// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/buf/locked_io_buffers.h"
#include "guestio/mem/any_range.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/memory_reader.h"
#include "guestio/mem/memory_writer.h"

namespace guestio::buf {

/// What a device may do with the guest memory of a request.
enum class MemoryAccess : std::uint8_t {
  kReadOnly,  ///< a disk write: the device reads the guest's bytes
  kWritable,  ///< a disk read: the device writes them
};

/// Sequential access to a request's bytes (mem/memory_reader.h, mem/memory_writer.h).
using RequestReader = mem::MemoryReader<mem::AnyRange>;
using RequestWriter = mem::MemoryWriter<mem::AnyRange>;

/// The guest memory of one storage request: any range of guest bytes seen as one row, and what the
/// device may do with it.
///
///   extents   |aaaaaaaaaa|   |bbbbb|  |ccccccccccccc|      guest addresses, any order and size
///   range         [aaaaaaaaaabbbbbccccc]                   what size(), reader() … mean
///
/// The range is an AddressRange, a list of them (a virtio chain as it comes), a PagedRange or a
/// list of those. It may lie anywhere, memory or not: an access that leaves memory fails then.
///
///     const auto buffers = RequestBuffers(memory, paged_range, MemoryAccess::kWritable);
///     const auto locked = buffers.lock(MemoryAccess::kWritable);
///     if (!locked) return fail(locked.error());
///     … the kernel reads a file into locked->segments() …
///     if (auto marked = buffers.mark_written(); !marked) …
///
/// A view, seven words, cheap to copy: the memory, and the list that the range is a view of, must
/// outlive it. Threads: as GuestMemory.
class RequestBuffers {
 public:
  /// No bytes.
  constexpr RequestBuffers() noexcept = default;
  template <mem::GuestRange Range>
  RequestBuffers(const mem::GuestMemory& memory, const Range& range, MemoryAccess access) noexcept
      : memory_(&memory), range_(range), access_(access) {}
  /// All bytes of `extents`. Errors: too large when the lengths do not add up in 64 bits.
  [[nodiscard]] static Result<RequestBuffers> from_extents(
      const mem::GuestMemory& memory, std::span<const mem::AddressRange> extents,
      MemoryAccess access) noexcept;

  [[nodiscard]] std::uint64_t size() const noexcept { return range_.length(); }
  [[nodiscard]] bool is_empty() const noexcept { return range_.is_empty(); }
  [[nodiscard]] const mem::AnyRange& range() const noexcept { return range_; }
  [[nodiscard]] MemoryAccess access() const noexcept { return access_; }
  [[nodiscard]] const mem::GuestMemory& memory() const noexcept {
    return memory_ != nullptr ? *memory_ : no_memory();
  }

  /// The bytes [offset, offset + size) of these. Errors: out of range.
  [[nodiscard]] Result<RequestBuffers> try_subrange(std::uint64_t offset,
                                                    std::uint64_t size) const noexcept;
  /// As try_subrange(). Requires: the bytes lie inside.
  [[nodiscard]] RequestBuffers subrange(std::uint64_t offset, std::uint64_t size) const noexcept {
    return {memory_, range_.subrange(offset, size), access_};
  }
  /// The first `at` bytes and the rest. Errors: out of range.
  [[nodiscard]] Result<mem::Split<RequestBuffers>> try_split(std::uint64_t at) const noexcept;
  /// As try_split(). Requires: at <= size().
  [[nodiscard]] mem::Split<RequestBuffers> split(std::uint64_t at) const noexcept {
    return {subrange(0, at), subrange(at, size() - at)};
  }

  /// Sequential access from the first byte on; always allowed.
  [[nodiscard]] RequestReader reader() const noexcept { return {memory(), range_}; }
  /// On read-only memory: has no bytes, and answers read-only to whatever is not empty.
  [[nodiscard]] RequestWriter writer() const noexcept {
    if (access_ == MemoryAccess::kReadOnly) return RequestWriter::read_only(memory());
    return {memory(), range_};
  }

  /// Whether every run of host bytes starts at a multiple of `alignment` and has a length that is
  /// one: direct I/O with that alignment takes the request as it lies. Memory that cannot be locked
  /// is aligned to nothing. Requires: a power of two, of any size.
  [[nodiscard]] bool is_aligned(std::uint64_t alignment) const;

  /// Finds the host segments for the kernel to work on, adjacent ones joined across pages and
  /// extents, and holds the memory until the result goes away. All or nothing. No bytes: no
  /// segments. Takes nothing from the heap where the backing needs no page locks.
  /// Errors: read-only (`purpose` is to write memory that may only be read), out of range, and
  /// those of the memory's backing.
  [[nodiscard]] Result<LockedIoBuffers> lock(MemoryAccess purpose) const;

  /// Notes in the memory's dirty log that the device has written these bytes through a lock, which
  /// nobody else sees; to be called after the I/O, whatever became of it, and before the guest is
  /// told. What writer() writes is noted by itself. Does nothing without a log.
  /// Errors: of DirtyLog::mark().
  [[nodiscard]] Result<> mark_written() const noexcept;

 private:
  RequestBuffers(const mem::GuestMemory* memory, const mem::AnyRange& range,
                 MemoryAccess access) noexcept
      : memory_(memory), range_(range), access_(access) {}

  [[nodiscard]] static const mem::GuestMemory& no_memory() noexcept;

  const mem::GuestMemory* memory_ = nullptr;  // nullptr: of a default one, which has no bytes
  mem::AnyRange range_;
  MemoryAccess access_ = MemoryAccess::kReadOnly;
};

}  // namespace guestio::buf
