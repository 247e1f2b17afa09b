// SPDX-License-Identifier: MIT
#include "apps/guestio-load/run.h"

#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <vector>

#include "apps/guestio-load/complain.h"
#include "apps/guestio-load/device.h"
#include "apps/guestio-load/jobs.h"
#include "apps/guestio-load/run_job.h"
#include "apps/guestio-load/run_report.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

namespace {

/// The first argument beyond the limits of the device, if any.
std::optional<std::string> check_device_limits(const Device& device,
                                               const RunArguments& arguments) {
  const bool writes = arguments.rw != ReadWrite::kRead && arguments.rw != ReadWrite::kRandRead;
  const std::uint64_t block = arguments.block_size.raw();
  if (writes && device.is_read_only()) {
    return fmt::format("--rw {}: disk is read-only", to_text(arguments.rw));
  }
  if (block % device.block_size() != 0) {
    return fmt::format("--bs: not a multiple of the logical block size {}", device.block_size());
  }
  if (arguments.offset.raw() % device.block_size() != 0) {
    return fmt::format("--offset: not a multiple of the logical block size {}",
                       device.block_size());
  }
  if (arguments.jobs > device.session().queues) {
    return fmt::format("--numjobs: more than the {} queues of the backend",
                       device.session().queues);
  }
  if (arguments.segments > device.max_segments()) {
    return fmt::format("--segments: more than seg_max ({})", device.max_segments());
  }
  if (block / arguments.segments > device.max_segment_bytes()) {
    return fmt::format("--bs: segments larger than size_max ({} bytes)",
                       device.max_segment_bytes());
  }
  if (RunJob::ring_entries_needed(device, arguments) > arguments.queue_size.value_or(32768)) {
    return "--iodepth: more descriptors than ring entries (see --queue-size)";
  }
  return std::nullopt;
}

struct CpuTime {
  double user;
  double system;
};

CpuTime cpu_time() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return {seconds(usage.ru_utime), seconds(usage.ru_stime)};
}

using Jobs = std::vector<std::unique_ptr<RunJob>>;

Result<Jobs> make_jobs(Device& device, vhost::FrontendMemory& memory, const RunArguments& arguments,
                       DiskRegion region) {
  const std::array regions = {memory.region()};
  const auto set = device.frontend().set_mem_table(regions);
  if (!set) return fail(set.error());
  Jobs jobs;
  for (std::uint32_t i = 0; i < arguments.jobs; ++i) {
    auto job = RunJob::create(device, memory, arguments, region, i);
    if (!job) return fail(job.error());
    jobs.push_back(std::move(*job));
  }
  return jobs;
}

/// Prints the progress of the jobs.
class Progress {
 public:
  Progress(const Jobs& jobs, const RunArguments& arguments, Clock::time_point start)
      : jobs_(jobs), arguments_(arguments), start_(start), last_(start) {}

  void tick() {
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    if (!line_.is_shown() || seconds < 0.4) return;
    std::uint64_t reads = 0;
    std::uint64_t writes = 0;
    for (const auto& job : jobs_) {
      reads += job->reads_completed();
      writes += job->writes_completed();
    }
    const auto rate = [&](std::uint64_t count, std::uint64_t before) {
      return static_cast<double>(count - before) / seconds;
    };
    const double read_rate = rate(reads, reads_);
    const double write_rate = rate(writes, writes_);
    const double bytes =
        (read_rate + write_rate) * static_cast<double>(arguments_.block_size.raw());
    const auto whole = std::chrono::duration<double>(arguments_.ramp + arguments_.runtime);
    line_.show(fmt::format("{:.0f} of {:.0f} s{}: read {:.0f} IOPS, write {:.0f} IOPS, {}/s",
                           std::chrono::duration<double>(now - start_).count(), whole.count(),
                           now < start_ + arguments_.ramp ? " (ramp)" : "", read_rate, write_rate,
                           format_byte_count(ByteCount(static_cast<std::uint64_t>(bytes)))));
    last_ = now;
    reads_ = reads;
    writes_ = writes;
  }

 private:
  const Jobs& jobs_;
  const RunArguments& arguments_;
  const Clock::time_point start_;
  Clock::time_point last_;
  std::uint64_t reads_ = 0;
  std::uint64_t writes_ = 0;
  ProgressLine line_;
};

/// Runs all jobs. Returns the first failure.
std::optional<JobsFailure> drive(Device& device, const Jobs& jobs, const RunArguments& arguments,
                                 RunSummary& summary) {
  const Clock::time_point start = Clock::now();
  const Window window{start + arguments.ramp, start + arguments.ramp + arguments.runtime};
  StopFlags flags;
  std::vector<std::function<void()>> functions;
  for (const auto& job : jobs) {
    functions.emplace_back([&job, &window, &flags] { job->run(window, flags); });
  }
  const CpuTime before = cpu_time();
  std::optional<JobsFailure> failure;
  {
    Progress progress(jobs, arguments, start);
    failure = run_jobs(device, flags, functions, [&progress] { progress.tick(); });
  }
  const CpuTime after = cpu_time();
  const Clock::time_point end = std::min(Clock::now(), window.to);
  const double share =
      std::chrono::duration<double>(end - window.from) / std::chrono::duration<double>(end - start);
  summary.measured = end - window.from;
  summary.user_seconds = (after.user - before.user) * share;
  summary.system_seconds = (after.system - before.system) * share;
  for (const auto& job : jobs) {
    summary.totals.read.merge(job->totals().read);
    summary.totals.write.merge(job->totals().write);
    if (job->failure() && !failure) failure = JobsFailure{*job->failure()};
  }
  return failure;
}

}  // namespace

int run_load(const RunArguments& arguments) {
  auto device = Device::open(arguments.target);
  if (!device) return complain(device.error());
  if (const auto violation = check_device_limits(*device, arguments)) {
    return complain(kExitUsage, *violation);
  }
  const auto region = region_of(FileOffset(arguments.offset.raw()), arguments.size,
                                device->capacity(), arguments.block_size);
  if (!region) return complain(kExitUsage, region.error().to_string());
  auto memory =
      vhost::FrontendMemory::create(RunJob::memory_for(*device, arguments) * arguments.jobs);
  if (!memory) return complain(memory.error());
  // Keeps page faults out of the measurement.
  if (auto populated = memory->preallocate(); !populated) return complain(populated.error());
  const auto jobs = make_jobs(*device, *memory, arguments, *region);
  if (!jobs) return complain(jobs.error());

  install_signal_handlers();
  RunSummary summary;
  const auto failure = drive(*device, *jobs, arguments, summary);
  if (failure) return complain(failure->status, failure->text);
  for (const auto& job : *jobs) {
    const auto finished = job->finish(*device);
    if (!finished) return complain(finished.error());
  }
  if (summary.measured.count() <= 0) return complain(kExitFailed, "stopped during the ramp time");
  fmt::print("{}", arguments.format == OutputFormat::kJson ? to_json(arguments, summary)
                                                           : to_normal(arguments, summary));
  return 0;
}

}  // namespace guestio::load
