// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/guestio-load/arguments.h"
#include "apps/guestio-load/device.h"
#include "apps/guestio-load/run_job.h"

/// What run and verify share: threads for the jobs, and an eye on the backend while they work.
namespace guestio::load {

/// Ctrl-C, SIGTERM and, unless nohup(1) has it ignored, SIGHUP end the jobs early from now on
/// instead of the program.
void end_on_signals();

/// Why jobs did not come to their end, and the exit status of that.
struct JobsFailure {
  std::string text;
  int status = kExitFailed;
};

/// Runs each function in a thread of its own until all are done. Meanwhile calls `tick` a few times
/// a second, passes a signal on as StopFlags::stop, and raises StopFlags::abandon when the backend
/// closes the connection, which is the failure that is returned. With `reconnect` that function is
/// called first; it returns when another backend has taken over, or why there is none. No job runs
/// when there are not threads for all: a failure of status kExitUsage.
std::optional<JobsFailure> run_jobs(Device& device, StopFlags& flags,
                                    const std::vector<std::function<void()>>& jobs,
                                    const std::function<void()>& tick,
                                    const std::function<Result<>()>& reconnect = nullptr);

/// Whether a signal asked the program to end.
[[nodiscard]] bool is_asked_to_end() noexcept;

/// One line on the terminal that is written over and over; nothing at all elsewhere.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  [[nodiscard]] bool is_shown() const noexcept { return shown_; }
  void show(const std::string& text);

 private:
  bool shown_;
  std::size_t width_ = 0;
};

}  // namespace guestio::load
