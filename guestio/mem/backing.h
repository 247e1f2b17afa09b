// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"

/// The memory behind regions of guest memory.
namespace guestio::mem {

/// The kind of an access to guest memory: a disk read writes it.
enum class Access : std::uint8_t { kRead, kWrite };

/// The accessible pages: bit i % 64 of word i / 64 is page i of the backing. 1 allows the access;
/// pages past the end are denied. The owner of the backing may change bits at any time; a running
/// access is not revoked. Relaxed loads: the bits order nothing else.
using AccessBitmap = std::span<const std::atomic<std::uint64_t>>;

/// A failed access to one page.
struct PageFault {
  enum class Cause : std::uint8_t {
    kFaulted,  ///< the mapping has no memory there or forbids the access
    kDenied,   ///< the access bitmap denies it
  };
  std::uint64_t offset;  ///< in the backing, of the first failed byte
  std::uint64_t length;  ///< remaining bytes of the access, in this page
  Access access;
  Cause cause;
};

/// The backing's reaction to a PageFault.
enum class FaultAction : std::uint8_t {
  kFail,      ///< the access ends with memory-fault or access-denied
  kRetry,     ///< the backing has resolved the fault: try again (GuestMemory limits the retries)
  kFallBack,  ///< use the fallback operations for these bytes
};

/// What a region requires before the kernel may use its host addresses.
enum class LockMode : std::uint8_t {
  kNothing,    ///< ordinary memory: the kernel returns EFAULT if it is gone
  kProbe,      ///< each page is touched, as by a read or a write
  kLockPages,  ///< lock_pages() and unlock_pages() around the use
};

/// A range of memory that another process can map.
struct ShareableRange {
  std::uint64_t offset;  ///< in the backing
  std::uint64_t length;
  int fd;  ///< owned by the backing
  FileOffset file_offset;
};

/// The memory of one or more regions, with its special properties. Offsets count from its start.
///
/// Every function is pure, so a wrapper must decide about each. Memory without special properties
/// derives from PlainBacking. examples/arriving_memory.cc fetches pages on first access.
///
/// Threads: any, concurrently. Lifetime: shared by every GuestMemory built on it. GuestMemory reads
/// the properties (the first group) when it is built; they must not change afterwards.
class Backing {
 public:
  Backing() = default;
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;
  virtual ~Backing() = default;

  // Properties.

  [[nodiscard]] virtual ByteCount size() const noexcept = 0;
  /// The bytes [0, n) as host memory. May be shorter than size(), or empty: accesses outside it use
  /// the fallback operations. An access may fault.
  [[nodiscard]] virtual std::span<std::byte> mapping() const noexcept = 0;
  /// kRead: every write fails with read-only.
  [[nodiscard]] virtual Mapping::Access access() const noexcept = 0;
  /// nullopt: every page is accessible.
  [[nodiscard]] virtual std::optional<AccessBitmap> bitmap(Access access) const noexcept = 0;
  [[nodiscard]] virtual LockMode lock_mode() const noexcept = 0;
  /// The device address of the first byte, if the memory is mapped for devices.
  [[nodiscard]] virtual std::optional<std::uint64_t> base_iova() const noexcept = 0;
  [[nodiscard]] virtual std::vector<ShareableRange> shareable_ranges() const = 0;

  // Accesses impossible through the mapping. Not called for zero bytes. `offset` and the length lie
  // inside the backing and inside one page, or in the unmapped part.

  [[nodiscard]] virtual FaultAction on_page_fault(const PageFault& fault) noexcept = 0;
  [[nodiscard]] virtual Result<> read_fallback(std::uint64_t offset,
                                               std::span<std::byte> to) noexcept = 0;
  [[nodiscard]] virtual Result<> write_fallback(std::uint64_t offset,
                                                std::span<const std::byte> from) noexcept = 0;
  [[nodiscard]] virtual Result<> fill_fallback(std::uint64_t offset, std::byte value,
                                               std::uint64_t length) noexcept = 0;
  /// Atomically, for 1, 2, 4 or 8 bytes. Returns false if they differ, with the found value in
  /// `expected`.
  [[nodiscard]] virtual Result<bool> compare_exchange_fallback(
      std::uint64_t offset, std::span<std::byte> expected,
      std::span<const std::byte> desired) noexcept = 0;

  // Use by the kernel.

  /// With LockMode::kHold: keeps [offset, offset + length) in place. Errors: not-lockable or the
  /// reason; nothing of the range is then locked.
  [[nodiscard]] virtual Result<> lock_pages(std::uint64_t offset,
                                            std::uint64_t length) noexcept = 0;
  /// Undoes one successful lock_pages() with the same arguments.
  virtual void unlock_pages(std::uint64_t offset, std::uint64_t length) noexcept = 0;
  /// Makes the bytes accessible to the kernel if their mapping alone does not.
  [[nodiscard]] virtual Result<> expose(std::uint64_t offset, std::uint64_t length) noexcept = 0;
};

/// A backing with a mapping only: no bitmaps, no fault resolution, no locking.
class PlainBacking : public Backing {
 public:
  [[nodiscard]] ByteCount size() const noexcept override { return ByteCount(mapping().size()); }
  [[nodiscard]] std::optional<AccessBitmap> bitmap(Access) const noexcept override { return {}; }
  [[nodiscard]] LockMode lock_mode() const noexcept override { return LockMode::kNothing; }
  [[nodiscard]] std::optional<std::uint64_t> base_iova() const noexcept override { return {}; }
  [[nodiscard]] std::vector<ShareableRange> shareable_ranges() const override { return {}; }

  [[nodiscard]] FaultAction on_page_fault(const PageFault&) noexcept override {
    return FaultAction::kFail;
  }
  [[nodiscard]] Result<> read_fallback(std::uint64_t offset,
                                       std::span<std::byte>) noexcept override {
    return no_fallback(offset);
  }
  [[nodiscard]] Result<> write_fallback(std::uint64_t offset,
                                        std::span<const std::byte>) noexcept override {
    return no_fallback(offset);
  }
  [[nodiscard]] Result<> fill_fallback(std::uint64_t offset, std::byte,
                                       std::uint64_t) noexcept override {
    return no_fallback(offset);
  }
  [[nodiscard]] Result<bool> compare_exchange_fallback(
      std::uint64_t offset, std::span<std::byte>, std::span<const std::byte>) noexcept override {
    return no_fallback(offset);
  }
  [[nodiscard]] Result<> lock_pages(std::uint64_t, std::uint64_t) noexcept override { return {}; }
  void unlock_pages(std::uint64_t, std::uint64_t) noexcept override {}
  [[nodiscard]] Result<> expose(std::uint64_t, std::uint64_t) noexcept override { return {}; }

 private:
  static std::unexpected<Error> no_fallback(std::uint64_t offset) noexcept {
    return fail(ErrorKind::kMemoryFault, "memory without a fallback", offset);
  }
};

/// Private zero-filled memory, for tests, benchmarks and devices without a guest.
class AnonymousBacking final : public PlainBacking {
 public:
  explicit AnonymousBacking(Mapping mapping) noexcept : mapping_(std::move(mapping)) {}
  [[nodiscard]] std::span<std::byte> mapping() const noexcept override { return mapping_.bytes(); }
  [[nodiscard]] Mapping::Access access() const noexcept override {
    return Mapping::Access::kReadWrite;
  }

 private:
  Mapping mapping_;
};

}  // namespace guestio::mem
