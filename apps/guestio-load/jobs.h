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

/// Shared by run and verify: job threads, and supervision of the backend connection.
namespace guestio::load {

/// From now on SIGINT, SIGTERM and, unless ignored (nohup(1)), SIGHUP stop the jobs instead of the
/// process.
void install_signal_handlers();

/// The cause of an early end of the jobs, and the exit status.
struct JobsFailure {
  std::string text;
  int status = kExitFailed;
};

/// Runs each function in a thread of its own until all have returned. Meanwhile it calls `tick` a
/// few times per second and turns a signal into StopFlags::stop.
///
/// When the backend disconnects, it sets StopFlags::abandon and returns that failure. With
/// `reconnect` it calls that function first, which returns after a reconnect, or an error. If a
/// thread cannot be started, no job runs, and the failure has status kExitUsage.
std::optional<JobsFailure> run_jobs(Device& device, StopFlags& flags,
                                    const std::vector<std::function<void()>>& jobs,
                                    const std::function<void()>& tick,
                                    const std::function<Result<>()>& reconnect = nullptr);

/// Whether one of those signals has arrived.
[[nodiscard]] bool is_interrupted() noexcept;

/// A progress line, overwritten in place. Only on a terminal.
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
