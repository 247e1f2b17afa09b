// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/error.h"
#include "guestio/buf/locked_io_buffers.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/paged_ranges.h"

namespace guestio::buf {

/// What a device may do with the guest memory of a request.
enum class MemoryAccess : std::uint8_t {
  kReadOnly,  ///< a disk write: the device reads the guest's bytes
  kWritable,  ///< a disk read: the device writes them
};

class BufferReader;
class BufferWriter;

/// The guest memory of one storage request: any list of extents (a virtio chain as it comes) seen as
/// one row of bytes, and what the device may do with it. A view, cheap to copy: the extents and the
/// memory must outlive it.
///
///   extents   |aaaaaaaaaa|   |bbbbb|  |ccccccccccccc|      guest addresses, any order and size
///   window        [aaaaaaaaaabbbbbccccc]                   what size(), reader() … mean
///
/// Extents may lie anywhere, memory or not: an access that leaves memory fails then.
class RequestBuffers {
 public:
  /// No bytes.
  constexpr RequestBuffers() noexcept = default;
  RequestBuffers(const mem::GuestMemory& memory, const mem::AddressRanges& window,
                 MemoryAccess access) noexcept
      : memory_(&memory), window_(window), access_(access) {}
  /// All bytes of `extents`. Errors: too large when the lengths do not add up in 64 bits.
  static Result<RequestBuffers> from_extents(const mem::GuestMemory& memory,
                                             std::span<const mem::AddressRange> extents,
                                             MemoryAccess access);

  [[nodiscard]] std::uint64_t size() const noexcept { return window_.length(); }
  [[nodiscard]] bool is_empty() const noexcept { return window_.is_empty(); }
  [[nodiscard]] const mem::AddressRanges& ranges() const noexcept { return window_; }
  [[nodiscard]] MemoryAccess access() const noexcept { return access_; }

  /// The bytes [offset, offset + size) of these. Errors: out of range.
  [[nodiscard]] Result<RequestBuffers> try_subrange(std::uint64_t offset, std::uint64_t size) const;
  /// As try_subrange(). Requires: the bytes lie inside.
  [[nodiscard]] RequestBuffers subrange(std::uint64_t offset, std::uint64_t size) const;

  /// Sequential access from the first byte on.
  [[nodiscard]] BufferReader reader() const noexcept;
  /// On read-only memory: has no bytes, and answers read-only to whatever is not empty.
  [[nodiscard]] BufferWriter writer() const noexcept;

  /// Whether every run of host bytes starts at a multiple of `alignment` and has a length that is
  /// one. Requires: a power of two. Errors: those of lock().
  [[nodiscard]] Result<bool> is_aligned(std::size_t alignment) const;

  /// Finds the host segments for the kernel to work on, adjacent ones joined, and holds the memory
  /// until the result goes away. All or nothing. No bytes: no segments.
  /// Errors: read-only (`purpose` is to write memory that may only be read), out of range, and those
  /// of the memory's backing.
  [[nodiscard]] Result<LockedIoBuffers> lock(MemoryAccess purpose) const;

 private:
  friend class BufferReader;
  friend class BufferWriter;

  const mem::GuestMemory* memory_ = nullptr;
  mem::AddressRanges window_;
  MemoryAccess access_ = MemoryAccess::kReadOnly;
};

/// Reads the bytes of RequestBuffers in order. All or an error per call, the position moves only on
/// success; a length of zero always succeeds.
class BufferReader {
 public:
  explicit BufferReader(const RequestBuffers& rest) noexcept : rest_(rest) {}

  /// Errors: out of range (fewer remain), memory fault.
  Result<> read(std::span<std::byte> to);
  /// Errors: out of range.
  Result<> skip(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t remaining() const noexcept { return rest_.size(); }

 private:
  RequestBuffers rest_;
};

/// Writes the bytes of RequestBuffers in order; the rules of BufferReader.
class BufferWriter {
 public:
  explicit BufferWriter(const RequestBuffers& rest) noexcept : rest_(rest) {}

  /// Errors: read-only, out of range (fewer remain), memory fault.
  Result<> write(std::span<const std::byte> from);
  Result<> fill(std::byte value, std::uint64_t bytes);
  Result<> zero(std::uint64_t bytes) { return fill(std::byte{0}, bytes); }
  Result<> skip(std::uint64_t bytes);
  /// 0 on read-only memory.
  [[nodiscard]] std::uint64_t remaining() const noexcept {
    return rest_.access() == MemoryAccess::kWritable ? rest_.size() : 0;
  }

 private:
  Result<> check(std::uint64_t bytes, const char* what) const;
  RequestBuffers rest_;
};

}  // namespace guestio::buf
