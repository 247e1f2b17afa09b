// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/registered/memory_monitor.h"
#include "guestio/registered/region.h"
#include "guestio/registered/registration_log.h"
#include "guestio/uring/pinned_buffers.h"
#include "guestio/uring/registered_buffers.h"

/// The regions of one front-end's memory and their states.
namespace guestio::registered {

/// Regions under one mutex, and the queue of those that wait for the worker.
///
/// Threads: any. Locks: MemoryMonitor calls in with its own mutex held, and the end of a
/// subscription takes that mutex. So no region ends while this set's mutex is held.
class RegionSet final : public MemoryMonitor::Subscriber, private Region::Owner {
 public:
  /// A region that waits for the worker.
  struct Job {
    std::shared_ptr<Region> region;
    bool is_lost = false;  ///< to be released; otherwise to be prepared
  };
  /// What a lost region held. Ends with no lock held.
  struct Remains {
    std::optional<uring::PinnedBuffers> pinned;
    std::optional<MemoryMonitor::Subscription> subscription;
  };

  explicit RegionSet(RegistrationLog& log) noexcept : log_(log) {}
  RegionSet(const RegionSet&) = delete;
  RegionSet& operator=(const RegionSet&) = delete;
  /// Requires: no worker.
  ~RegionSet();

  /// Makes the regions of `memory` the wanted ones, at most `max_regions`, the largest first.
  /// Regions that stay keep their state. Returns whether a job waits.
  bool replace(const mem::GuestMemory& memory, std::size_t max_regions);
  /// The ready regions of `memory`, the largest first.
  [[nodiscard]] std::vector<std::shared_ptr<Region>> find_ready(const mem::GuestMemory& memory);
  /// Registers the pinned pages of a region with `table`.
  /// Errors: closed (lost meanwhile); those of RegisteredBuffers::add().
  [[nodiscard]] Result<uring::RegisteredBuffers::Registration> register_pinned(
      Region& region, uring::RegisteredBuffers& table, const void* owner);
  [[nodiscard]] bool is_ready(const Region& region) noexcept;
  /// Asks the files for their blocks: incomplete regions that are resident now are wanted again,
  /// ready ones whose file has shrunk are lost. One system call for each region.
  void check_residency() noexcept;
  void on_memory_changed() noexcept override { check_residency(); }
  /// Grows with each change of what find_ready() returns.
  [[nodiscard]] std::uint32_t generation() const noexcept {
    return generation_.load(std::memory_order_acquire);
  }

  // The worker's.

  /// Waits for a job. Returns none once `stop` is requested and no job waits.
  [[nodiscard]] Job wait_for_job(const std::stop_token& stop);
  /// The end of a preparation.
  void finish(Region& region, Region::State state) noexcept;
  /// The end of a lost region.
  [[nodiscard]] Remains release(Region& region) noexcept;

 private:
  void on_pages_lost(Region& region) noexcept override;
  [[nodiscard]] std::shared_ptr<Region> next_job() const noexcept;
  void compare_blocks(Region& region) noexcept;
  void mark_lost(Region& region) noexcept;

  RegistrationLog& log_;
  // Release on each change; the partner is generation().
  std::atomic<std::uint32_t> generation_ = 0;
  std::mutex mutex_;  // guards what follows, and the regions' states
  std::condition_variable_any has_job_;
  std::vector<std::shared_ptr<Region>> regions_;  // the largest first
};

}  // namespace guestio::registered
