// SPDX-License-Identifier: MIT
#include "guestio/registered/registration_worker.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "guestio/base/thread.h"
#include "guestio/registered/residency.h"
#include "guestio/uring/pinned_buffers.h"

namespace guestio::registered {

void RegistrationWorker::start() {
  const std::scoped_lock lock(start_mutex_);
  if (thread_.joinable()) return;
  auto thread = start_thread("guestio-pin", [this](const std::stop_token& stop) { run(stop); });
  if (!thread) return log_.warn_refused(thread.error());
  thread_ = std::move(*thread);
}

void RegistrationWorker::run(const std::stop_token& stop) {
  while (true) {
    // Ends in each round with no lock held: the set may have dropped the region meanwhile.
    const RegionSet::Job job = regions_.wait_for_job(stop);
    if (!job.region) return;
    Region& region = *job.region;
    if (job.is_lost) {
      release(region);
      continue;
    }
    const std::stop_callback stop_preparation(stop, [&] { region.unwanted.request_stop(); });
    const Region::State state = prepare(region);
    regions_.finish(region, state);
    if (state == Region::State::kReady) log_.note_pinned(region.bytes.size());
  }
}

/// A ring unregisters by itself when an operation meets the gap; idle rings are told to.
void RegistrationWorker::release(Region& region) {
  const auto remains = regions_.release(region);
  subscribers_.notify();
}

/// Guards the pages before it pins them: a page that goes between the two is noticed.
Region::State RegistrationWorker::prepare(Region& region) {
  const bool is_resident_only = scope_ == RegistrationScope::kResidentOnly;
  if (region.is_in_other_file) {
    log_.warn_other_file();
    return Region::State::kRefused;
  }
  if (is_resident_only && !is_resident(region.fd)) return Region::State::kIncomplete;
  if (auto guarded = guard_pages(region); !guarded) {
    region.guard.reset();
    if (guarded.error().kind == ErrorKind::kCancelled) return Region::State::kRefused;
    log_.warn_unguarded(guarded.error());
    if (is_resident_only) return Region::State::kRefused;
  }
  subscribe(region);
  // Guarded pages are resident.
  if (region.guard) region.blocks = file_blocks(region.fd);
  if (can_share_pins_) {
    auto pinned = uring::PinnedBuffers::pin(region.bytes, region.unwanted.get_token());
    if (!pinned) {
      if (pinned.error().kind != ErrorKind::kCancelled) log_.warn_refused(pinned.error());
      return Region::State::kRefused;
    }
    region.pinned.emplace(std::move(*pinned));
  } else if (is_resident_only) {
    // Each ring would pin for itself, in the time of its I/O: only on request.
    return Region::State::kRefused;
  }
  if (!region.guard) region.blocks = file_blocks(region.fd);
  return Region::State::kReady;
}

Result<> RegistrationWorker::guard_pages(Region& region) const {
  // A few milliseconds each: whoever cancels does not wait.
  constexpr std::size_t kStep = std::size_t{16} << 20;
  if (region.fd < 0) return fail(ErrorKind::kUnsupported, "page guard on anonymous memory");
  auto guard = PageGuard::create(region.fd, region.offset, ByteCount(region.bytes.size()));
  if (!guard) return fail(guard.error());
  region.guard.emplace(std::move(*guard));
  const std::size_t step = std::max(kStep, region.guard->page_size());
  for (std::size_t at = 0; at < region.bytes.size(); at += step) {
    if (region.unwanted.stop_requested()) return fail(ErrorKind::kCancelled, "guard guest memory");
    const std::size_t size = std::min(step, region.bytes.size() - at);
    if (auto covered = region.guard->cover(at, size); !covered) return covered;
  }
  return {};
}

/// Without a monitor an idle disk notices a loss at its next request.
void RegistrationWorker::subscribe(Region& region) noexcept {
  if (region.fd < 0) return;
  if (!monitor_) {
    auto monitor = MemoryMonitor::of_process();
    if (!monitor) return log_.note_no_monitor(monitor.error());
    monitor_ = std::move(*monitor);
  }
  region.subscription.emplace(monitor_->subscribe(region.fd, regions_));
  if (!region.subscription->is_file_watched()) log_.note_unmonitored();
}

}  // namespace guestio::registered
