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
#include "guestio/base/counter.h"

namespace guestio::load {

using Clock = std::chrono::steady_clock;

/// Stop requests to the jobs. Set by the control thread, and by a failed job.
struct StopFlags {
  std::atomic<bool> stop = false;     ///< no new requests; drain those in flight
  std::atomic<bool> abandon = false;  ///< the backend is disconnected: do not drain either
};

/// The measured interval of a run: after the ramp time.
struct Window {
  Clock::time_point from;
  Clock::time_point to;
};

/// Completions of one direction within the window.
struct DirectionTotals {
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;
  Histogram latency;  ///< fio's clat, nanoseconds

  void merge(const DirectionTotals& other) noexcept;
};

struct RunTotals {
  DirectionTotals read;
  DirectionTotals write;
};

/// One job: a queue, and the thread function that keeps its iodepth full.
///
/// Threads: create() and finish() on the control thread, before and after run() on one thread;
/// reads_completed() and writes_completed() on any.
class RunJob {
 public:
  /// Shared memory needed by create(), given the negotiated features of `device`.
  static std::size_t memory_for(const Device& device, const RunArguments& arguments);
  /// Ring entries needed for the iodepth.
  static std::uint64_t ring_entries_needed(const Device& device, const RunArguments& arguments);

  static Result<std::unique_ptr<RunJob>> create(Device& device, vhost::FrontendMemory& memory,
                                                const RunArguments& arguments, DiskRegion region,
                                                std::uint32_t index);

  /// Keeps the queue full until the end of the window or a stop request.
  void run(const Window& window, StopFlags& flags);
  Result<> finish(Device& device) { return queue_.stop(device); }

  [[nodiscard]] const RunTotals& totals() const noexcept { return totals_; }
  /// The failure, if any.
  [[nodiscard]] const std::optional<std::string>& failure() const noexcept { return failure_; }

  // Completed requests since the start, for the progress line. Any thread.
  [[nodiscard]] std::uint64_t reads_completed() const noexcept { return reads_completed_; }
  [[nodiscard]] std::uint64_t writes_completed() const noexcept { return writes_completed_; }

 private:
  /// One request and its memory.
  struct Slot {
    virtio::blk::RequestHeader* header = nullptr;
    std::byte* status = nullptr;                  // shared with the device: any value is possible
    std::vector<virtio::DriverSegment> segments;  // header, data…, status
    Workload::Next request{};
    Clock::time_point since;
  };

  RunJob(const RunArguments& arguments, DiskRegion region, std::uint32_t index, RequestQueue queue);
  Result<> make_slots(vhost::FrontendMemory& memory);
  Result<> loop(const Window& window, StopFlags& flags);
  Result<> submit(Clock::time_point now);
  /// Reaps all completions. Returns the time of the reap; nullopt without completions.
  Result<std::optional<Clock::time_point>> reap(const Window& window);
  Result<> complete(const RequestQueue::Completion& completion, Clock::time_point now,
                    const Window& window);

  const RunArguments& arguments_;
  Workload workload_;
  RequestQueue queue_;
  RequestQueue::Form form_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;               // slots
  std::vector<RequestQueue::Completion> reaped_;  // of one batch; a member to reuse its capacity
  RunTotals totals_;
  std::optional<std::string> failure_;
  Counter reads_completed_;
  Counter writes_completed_;
};

}  // namespace guestio::load
