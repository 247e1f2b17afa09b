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

/// The access a device has to the guest memory of a request.
enum class MemoryAccess : std::uint8_t {
  kReadOnly,  ///< a disk write: the device reads the guest's bytes
  kWritable,  ///< a disk read: the device writes them
};

/// Sequential access to a request's bytes (mem/memory_reader.h, mem/memory_writer.h).
using RequestReader = mem::MemoryReader<mem::AnyRange>;
using RequestWriter = mem::MemoryWriter<mem::AnyRange>;

/// The guest memory of one storage request: any guest range as one sequence of bytes, and the
/// device's access to it.
///
///   extents   |aaaaaaaaaa|   |bbbbb|  |ccccccccccccc|      guest addresses, any order and size
///   range         [aaaaaaaaaabbbbbccccc]                   the bytes of size(), reader() …
///
/// The range is an AddressRange, a list of them (a virtio chain), a PagedRange or a list of those.
/// It may lie anywhere: an access outside memory fails.
///
///     const auto buffers = RequestBuffers(memory, paged_range, MemoryAccess::kWritable);
///     const auto locked = buffers.lock(MemoryAccess::kWritable);
///     if (!locked) return fail(locked.error());
///     … the kernel reads a file into locked->segments() …
///     if (auto marked = buffers.mark_written(); !marked) …
///
/// A view, seven words, cheap to copy. Lifetime: the memory and the list behind the range outlive
/// it. Threads: as GuestMemory.
class RequestBuffers {
 public:
  /// No bytes.
  constexpr RequestBuffers() noexcept = default;
  template <mem::GuestRange Range>
  RequestBuffers(const mem::GuestMemory& memory, const Range& range, MemoryAccess access) noexcept
      : memory_(&memory), range_(range), access_(access) {}
  /// All bytes of `extents`. Errors: too large if the sum of lengths exceeds 64 bits.
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

  /// The bytes [offset, offset + size). Errors: out of range.
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
  /// On read-only memory: without capacity; every non-empty write fails with read-only.
  [[nodiscard]] RequestWriter writer() const noexcept {
    if (access_ == MemoryAccess::kReadOnly) return RequestWriter::read_only(memory());
    return {memory(), range_};
  }

  /// Whether start and length of every host run are multiples of `alignment`, as direct I/O with
  /// that alignment requires. False for memory that cannot be locked. Requires: a power of two, of
  /// any size.
  [[nodiscard]] bool is_aligned(std::uint64_t alignment) const;

  /// Locks the memory for the kernel, for the lifetime of the result, and returns its host
  /// segments, merged across pages and extents where adjacent. All or nothing. Zero bytes: no
  /// segments. No heap allocation if the backing needs no page locks. Errors: read-only (`purpose`
  /// is kWritable on read-only memory), out of range, and those of the memory's backing.
  [[nodiscard]] Result<LockedIoBuffers> lock(MemoryAccess purpose) const;

  /// Marks these bytes in the memory's dirty log, after writes through a lock. Call it after the
  /// I/O, whatever its result, and before the guest sees the completion. Writes of writer() are
  /// marked automatically. A no-op without a log. Errors: of DirtyLog::mark().
  [[nodiscard]] Result<> mark_written() const noexcept;

 private:
  RequestBuffers(const mem::GuestMemory* memory, const mem::AnyRange& range,
                 MemoryAccess access) noexcept
      : memory_(memory), range_(range), access_(access) {}

  [[nodiscard]] static const mem::GuestMemory& no_memory() noexcept;

  const mem::GuestMemory* memory_ = nullptr;  // nullptr for a default, empty one
  mem::AnyRange range_;
  MemoryAccess access_ = MemoryAccess::kReadOnly;
};

}  // namespace guestio::buf
