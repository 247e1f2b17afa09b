// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/guestio-load/arguments.h"
#include "apps/guestio-load/device.h"
#include "apps/guestio-load/histogram.h"
#include "apps/guestio-load/request_queue.h"
#include "apps/guestio-load/workload.h"

namespace guestio::load {

using Clock = std::chrono::steady_clock;

/// How jobs are told to end. Written by the control thread, and by a job that failed.
struct StopFlags {
  std::atomic<bool> stop = false;     ///< no new requests; wait for those in flight
  std::atomic<bool> abandon = false;  ///< the backend is gone: do not wait either
};

/// When a run measures.
struct Window {
  Clock::time_point from;
  Clock::time_point to;
};

/// What was done in one direction within the window.
struct DirectionTotals {
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;
  Histogram latency;  ///< nanoseconds

  void merge(const DirectionTotals& other) noexcept;
};

struct RunTotals {
  DirectionTotals read;
  DirectionTotals write;
};

/// One queue under load, and the thread function that loads it.
///
/// Threads: create() and finish() on the control thread, before and after run(), which is one
/// thread's; live_requests() on any.
class RunJob {
 public:
  /// Shared memory that create() will take. `device` says which features there are.
  static std::size_t memory_for(const Device& device, const RunArguments& arguments);
  /// Entries that the ring needs for the depth.
  static std::uint64_t ring_for(const Device& device, const RunArguments& arguments);

  static Result<std::unique_ptr<RunJob>> create(Device& device, vhost::FrontendMemory& memory,
                                                const RunArguments& arguments, DiskRegion region,
                                                std::uint32_t index);

  /// Keeps the queue full until the window ends or it is told to stop.
  void run(const Window& window, StopFlags& flags);
  Result<> finish(Device& device) { return queue_.stop(device); }

  [[nodiscard]] const RunTotals& totals() const noexcept { return totals_; }
  /// What went wrong, if anything did.
  [[nodiscard]] const std::optional<std::string>& failure() const noexcept { return failure_; }

  // Requests done since the start, for the progress line. Relaxed: nothing hangs on them.
  [[nodiscard]] std::uint64_t live_reads() const noexcept {
    return live_reads_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t live_writes() const noexcept {
    return live_writes_.load(std::memory_order_relaxed);
  }

 private:
  /// One request's memory and what is known about it.
  struct Slot {
    virtio::blk::RequestHeader* header = nullptr;
    std::byte* status = nullptr;                  // shared: any value may come to stand here
    std::vector<virtio::DriverSegment> segments;  // header, data…, status
    Workload::Next request{};
    Clock::time_point since;
  };

  RunJob(const RunArguments& arguments, DiskRegion region, std::uint32_t index, RequestQueue queue);
  Result<> make_slots(vhost::FrontendMemory& memory);
  Result<> loop(const Window& window, StopFlags& flags);
  Result<> submit(Clock::time_point now);
  /// Takes all completions that are there. Returns when they were seen; nothing if none was.
  Result<std::optional<Clock::time_point>> reap(const Window& window);
  Result<> complete(const RequestQueue::Completion& completion, Clock::time_point now,
                    const Window& window);

  const RunArguments& arguments_;
  Workload workload_;
  RequestQueue queue_;
  RequestQueue::Form form_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;               // slots
  std::vector<RequestQueue::Completion> reaped_;  // of one batch; here for its memory
  RunTotals totals_;
  std::optional<std::string> failure_;
  std::atomic<std::uint64_t> live_reads_ = 0;
  std::atomic<std::uint64_t> live_writes_ = 0;
};

}  // namespace guestio::load
