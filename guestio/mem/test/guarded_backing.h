// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "guestio/base/mapping.h"
#include "guestio/mem/backing.h"

namespace guestio::mem::test {

/// A backing with every special property, and a record of the calls to it. `bytes()` is a second
/// mapping of the same pages that never faults, used by the fallback operations.
class GuardedBacking final : public Backing {
 public:
  struct Options {
    std::size_t size = 0x10000;
    std::optional<std::size_t> mapped = std::nullopt;  ///< mapped bytes; nullopt: all
    bool read_bitmap = false;
    bool write_bitmap = false;
    LockMode lock_mode = LockMode::kNothing;
    Mapping::Access access = Mapping::Access::kReadWrite;
  };
  struct Extent {
    std::uint64_t offset;
    std::uint64_t length;
    friend bool operator==(const Extent&, const Extent&) = default;
  };

  explicit GuardedBacking(const Options& options);

  // Set by the test.

  void allow(Access access, std::uint64_t page, bool allowed);
  /// Unmaps the page, or makes it read-only.
  void protect(std::uint64_t page, Mapping::Access access);
  std::function<FaultAction(const PageFault&)> fault_hook;
  /// Locks fail from this number on (0 is the first).
  std::optional<std::size_t> fail_lock;

  // Read by the test.

  std::span<std::byte> bytes() { return {truth_.data(), options_.size}; }
  std::vector<PageFault> faults;
  std::vector<Extent> fallbacks;
  std::vector<Extent> locked;  ///< currently
  std::vector<Extent> exposed;
  std::size_t locks = 0;    ///< calls, successful or not
  std::size_t unlocks = 0;  ///< of locked extents

  // Backing.

  ByteCount size() const noexcept override { return ByteCount(options_.size); }
  std::span<std::byte> mapping() const noexcept override {
    return {shown_.data(), options_.mapped.value_or(options_.size)};
  }
  Mapping::Access access() const noexcept override { return options_.access; }
  std::optional<AccessBitmap> bitmap(Access access) const noexcept override;
  LockMode lock_mode() const noexcept override { return options_.lock_mode; }
  std::optional<std::uint64_t> base_iova() const noexcept override { return 0x8000'0000; }
  std::vector<ShareableRange> shareable_ranges() const override { return {}; }
  FaultAction on_page_fault(const PageFault& fault) noexcept override;
  Result<> read_fallback(std::uint64_t offset, std::span<std::byte> to) noexcept override;
  Result<> write_fallback(std::uint64_t offset, std::span<const std::byte> from) noexcept override;
  Result<> fill_fallback(std::uint64_t offset, std::byte value,
                         std::uint64_t length) noexcept override;
  Result<bool> compare_exchange_fallback(std::uint64_t offset, std::span<std::byte> expected,
                                         std::span<const std::byte> desired) noexcept override;
  Result<> lock_pages(std::uint64_t offset, std::uint64_t length) noexcept override;
  void unlock_pages(std::uint64_t offset, std::uint64_t length) noexcept override;
  Result<> expose(std::uint64_t offset, std::uint64_t length) noexcept override;

 private:
  Options options_;
  Mapping truth_;
  Mapping shown_;
  std::vector<std::atomic<std::uint64_t>> readable_;
  std::vector<std::atomic<std::uint64_t>> writable_;
};

}  // namespace guestio::mem::test
