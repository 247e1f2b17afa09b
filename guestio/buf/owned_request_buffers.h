// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/buf/request_buffers.h"

namespace guestio::buf {

/// The guest memory of a request with an owned list of pages or extents: for internal requests, for
/// tests, and for work that outlives the original list. Copyable; buffers() returns the view for
/// all other interfaces.
///
/// Only construction allocates (the list). Errors precede any allocation.
class OwnedRequestBuffers {
 public:
  /// The maximum of linear(), above any storage request. A greater length is a mistake or an
  /// attack.
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{4} << 30;

  /// All bytes of the pages.
  [[nodiscard]] static OwnedRequestBuffers from_whole_pages(
      std::span<const Gpn> gpns, MemoryAccess access = MemoryAccess::kWritable);
  /// The bytes [offset, offset + length) of the pages; keeps only the pages of these bytes.
  /// Errors: out of range beyond the pages.
  [[nodiscard]] static Result<OwnedRequestBuffers> from_pages(
      std::span<const Gpn> gpns, std::uint64_t offset, std::uint64_t length,
      MemoryAccess access = MemoryAccess::kWritable);
  /// The contiguous guest bytes [address, address + length). Never allocates.
  /// Errors: out of range beyond the 64-bit space, too large above kMaxBytes.
  [[nodiscard]] static Result<OwnedRequestBuffers> linear(
      Gpa address, std::uint64_t length, MemoryAccess access = MemoryAccess::kWritable) noexcept;
  /// All bytes of a list of extents. Errors: too large if the sum of lengths exceeds 64 bits.
  [[nodiscard]] static Result<OwnedRequestBuffers> from_extents(
      std::span<const mem::AddressRange> extents, MemoryAccess access = MemoryAccess::kWritable);

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] bool is_empty() const noexcept { return size_ == 0; }
  [[nodiscard]] MemoryAccess access() const noexcept { return access_; }
  /// The same as a view. Lifetime: this outlives it.
  [[nodiscard]] mem::AnyRange range() const noexcept;
  /// The number of guest pages of the bytes, each counted as often as listed.
  [[nodiscard]] std::uint64_t pages() const noexcept;

  /// The same as a view of `memory`. Lifetime: this and the memory outlive it.
  [[nodiscard]] RequestBuffers buffers(const mem::GuestMemory& memory) const noexcept;

 private:
  struct Pages {
    std::vector<Gpn> gpns;
    std::uint64_t offset;
  };
  using Extents = std::vector<mem::AddressRange>;
  using List = std::variant<mem::AddressRange, Pages, Extents>;

  OwnedRequestBuffers(List list, std::uint64_t size, MemoryAccess access) noexcept
      : list_(std::move(list)), size_(size), access_(access) {}

  List list_;
  std::uint64_t size_;
  MemoryAccess access_;
};

}  // namespace guestio::buf
