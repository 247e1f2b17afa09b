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

/// What stands behind a region of guest memory.
namespace guestio::mem {

/// What is done to guest memory: a disk read writes it.
enum class Access : std::uint8_t { kRead, kWrite };

/// Which pages may be accessed: bit i % 64 of word i / 64 stands for page i of the backing; 1 means
/// allowed, pages behind the end are not. The owner of the backing may change bits at any time; an
/// access that has begun is not called back. Relaxed loads: the bits order nothing else.
using AccessBitmap = std::span<const std::atomic<std::uint64_t>>;

/// Why an access did not go through.
struct PageFault {
  enum class Cause : std::uint8_t {
    kFaulted,  ///< the mapping has no memory there or does not allow the access
    kDenied,   ///< the access bitmap says no
  };
  std::uint64_t offset;  ///< in the backing, of the first byte that failed
  std::uint64_t length;  ///< bytes of the access that are still to be done, in this page
  Access access;
  Cause cause;
};

/// What is to be done about it.
enum class FaultAction : std::uint8_t {
  kFail,      ///< the access ends with memory-fault or access-denied
  kRetry,     ///< the backing has repaired something: try again (GuestMemory bounds how often)
  kFallBack,  ///< use the fallback operations for these bytes
};

/// What a region needs before the kernel may be given host addresses of it.
enum class LockMode : std::uint8_t {
  kNothing,    ///< ordinary memory: the kernel answers EFAULT if it has gone
  kProbe,      ///< each page is touched, as reading or writing will do
  kLockPages,  ///< lock_pages() and unlock_pages() around the use
};

/// A piece of memory that another process can map.
struct ShareableRange {
  std::uint64_t offset;  ///< in the backing
  std::uint64_t length;
  int fd;  ///< belongs to the backing
  FileOffset file_offset;
};

/// The memory of one or more regions, and what is special about it. Offsets count from its start.
///
/// Every function is pure: whoever wraps a backing has to decide about each. Memory that has
/// nothing special derives from PlainBacking instead; examples/arriving_memory.cc is one that
/// fetches pages when they are touched.
///
/// Threads: any, at the same time. Lifetime: shared by every GuestMemory that is made of it. The
/// facts (the first group) must not change once it is in use; they are asked when a GuestMemory is
/// built.
class Backing {
 public:
  Backing() = default;
  Backing(const Backing&) = delete;
  Backing& operator=(const Backing&) = delete;
  virtual ~Backing() = default;

  // Facts.

  [[nodiscard]] virtual ByteCount size() const noexcept = 0;
  /// The bytes [0, n) as host memory. May be shorter than size(), or nothing at all: accesses
  /// outside it fall back. Touching it may fault.
  [[nodiscard]] virtual std::span<std::byte> mapping() const noexcept = 0;
  /// kRead: every write is answered with read-only.
  [[nodiscard]] virtual Mapping::Access access() const noexcept = 0;
  /// Nothing: every page is allowed.
  [[nodiscard]] virtual std::optional<AccessBitmap> bitmap(Access access) const noexcept = 0;
  [[nodiscard]] virtual LockMode lock_mode() const noexcept = 0;
  /// Where a device finds the first byte, if the memory is mapped for devices.
  [[nodiscard]] virtual std::optional<std::uint64_t> base_iova() const noexcept = 0;
  [[nodiscard]] virtual std::vector<ShareableRange> shareable_ranges() const = 0;

  // Accesses that the mapping cannot do. Not called for zero bytes. `offset` and the length lie
  // inside the backing and inside one page, or in the part without mapping.

  [[nodiscard]] virtual FaultAction on_page_fault(const PageFault& fault) noexcept = 0;
  [[nodiscard]] virtual Result<> read_fallback(std::uint64_t offset,
                                               std::span<std::byte> to) noexcept = 0;
  [[nodiscard]] virtual Result<> write_fallback(std::uint64_t offset,
                                                std::span<const std::byte> from) noexcept = 0;
  [[nodiscard]] virtual Result<> fill_fallback(std::uint64_t offset, std::byte value,
                                               std::uint64_t length) noexcept = 0;
  /// Atomically, for 1, 2, 4 or 8 bytes. False when they differ: `expected` is what was found.
  [[nodiscard]] virtual Result<bool> compare_exchange_fallback(
      std::uint64_t offset, std::span<std::byte> expected,
      std::span<const std::byte> desired) noexcept = 0;

  // The kernel's use.

  /// With LockMode::kHold: keeps [offset, offset + length) in place. Errors: not-lockable or the
  /// reason; nothing of the range is then locked.
  [[nodiscard]] virtual Result<> lock_pages(std::uint64_t offset,
                                            std::uint64_t length) noexcept = 0;
  /// Undoes one successful lock_pages() with the same numbers.
  virtual void unlock_pages(std::uint64_t offset, std::uint64_t length) noexcept = 0;
  /// Makes the bytes known to the kernel where it does not know them by their mapping.
  [[nodiscard]] virtual Result<> expose(std::uint64_t offset, std::uint64_t length) noexcept = 0;
};

/// A backing that is a mapping and nothing else: no bitmaps, no repair of faults, no locking.
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
