// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>

#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/registered/memory_monitor.h"
#include "guestio/registered/page_guard.h"
#include "guestio/uring/pinned_buffers.h"
#include "guestio/uring/registered_buffers.h"

/// One region of guest memory on its way to being registered.
namespace guestio::registered {

/// A region, its file, its page guard and its pinned pages.
///
///     kWanted ── prepared ──► kReady ── page lost ──► kLost ── released ──► kRefused
///      ▲   │ └── not resident ──► kIncomplete                                  ▲
///      │   └──── refused, cancelled ───────────────────────────────────────────┤
///      └──────── kIncomplete, now resident
///
/// Threads: `state` belongs to RegionSet's mutex. The members after it belong to the worker until
/// kReady; after that `guard` is any thread's, the others belong to the mutex.
struct Region final : uring::BufferGuard {
  enum class State : std::uint8_t {
    kWanted,
    kIncomplete,  ///< not resident
    kReady,
    kLost,     ///< pages went away; the pins are to be released
    kRefused,  ///< not registrable, or released after a loss
  };

  /// Told of lost pages.
  class Owner {
   public:
    virtual void on_pages_lost(Region& region) noexcept = 0;

   protected:
    ~Owner() = default;
  };

  /// Lifetime: `owner` outlives the region.
  Region(Owner& owner, const mem::RegionSpec& spec);

  /// Whether `spec` names the same memory.
  [[nodiscard]] bool is_same(const mem::RegionSpec& spec) const noexcept;

  // uring::BufferGuard. Requires: `guard`.
  [[nodiscard]] bool is_resident(const std::byte* data, std::size_t size) const noexcept override;
  void prefetch(const std::byte* data, std::size_t size) const noexcept override;
  void on_unregistered() noexcept override { owner.on_pages_lost(*this); }

  Owner& owner;
  const std::shared_ptr<mem::Backing> backing;  // keeps address and file
  const std::span<std::byte> bytes;
  int fd = -1;                    // of a memory file, or none
  bool is_in_other_file = false;  // disk, FUSE, several files
  FileOffset offset;
  State state = State::kWanted;
  std::stop_source unwanted;  // cancels the preparation
  std::optional<PageGuard> guard;
  std::optional<uring::PinnedBuffers> pinned;
  std::optional<MemoryMonitor::Subscription> subscription;
  std::int64_t blocks = 0;  // of the file, at the last check
};

/// Whether the region is writable and consists of whole pages: pages are guarded and pinned as a
/// whole.
[[nodiscard]] bool has_whole_pages(const mem::RegionSpec& spec) noexcept;

}  // namespace guestio::registered
