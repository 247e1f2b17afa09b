// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>

#include "guestio/base/error.h"
#include "guestio/registered/loss_subscribers.h"
#include "guestio/registered/memory_monitor.h"
#include "guestio/registered/region.h"
#include "guestio/registered/region_set.h"
#include "guestio/registered/registration_log.h"
#include "guestio/registered/registration_scope.h"

/// The thread that prepares regions for registration.
namespace guestio::registered {

/// Guards and pins one region after the other, 0.15 s/GiB, and releases lost ones. A region that is
/// no longer wanted, and the end of this, wait some milliseconds, or 0.1 s where pages are
/// resident.
///
/// Threads: start() any; the rest the worker's own. Lifetime: ends before what it refers to.
class RegistrationWorker {
 public:
  /// `can_share_pins`: of PinnedBuffers. Without it each ring pins for itself.
  RegistrationWorker(RegionSet& regions, LossSubscribers& subscribers, RegistrationLog& log,
                     RegistrationScope scope, bool can_share_pins) noexcept
      : regions_(regions),
        subscribers_(subscribers),
        log_(log),
        scope_(scope),
        can_share_pins_(can_share_pins) {}

  /// Starts the thread, if it does not run. A thread that cannot be had is tried again by the next
  /// call; the log says so.
  void start();

 private:
  void run(const std::stop_token& stop);
  void release(Region& region);
  [[nodiscard]] Region::State prepare(Region& region);
  [[nodiscard]] Result<> guard_pages(Region& region) const;
  void subscribe(Region& region) noexcept;

  RegionSet& regions_;
  LossSubscribers& subscribers_;
  RegistrationLog& log_;
  const RegistrationScope scope_;
  const bool can_share_pins_;
  std::shared_ptr<MemoryMonitor> monitor_;  // null before the first subscription
  std::mutex start_mutex_;                  // guards the start of thread_
  std::jthread thread_;                     // ends first
};

}  // namespace guestio::registered
