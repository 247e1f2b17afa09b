// SPDX-License-Identifier: MIT
#include "apps/guestio-load/verify.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "apps/guestio-load/complain.h"
#include "apps/guestio-load/device.h"
#include "apps/guestio-load/jobs.h"
#include "apps/guestio-load/operation_source.h"
#include "apps/guestio-load/verify_job.h"
#include "guestio/vhost/frontend/frontend_memory.h"

namespace guestio::load {

namespace blk = virtio::blk;

namespace {

constexpr ByteCount kDefaultRegion(std::uint64_t{16} << 20);
constexpr ByteCount kMaxRegion(std::uint64_t{4} << 30);

/// The first argument beyond the limits of the device, if any.
std::optional<std::string> check_device_limits(const Device& device,
                                               const VerifyArguments& arguments) {
  if (arguments.jobs > device.session().queues) {
    return fmt::format("--numjobs: more than the {} queues of the backend",
                       device.session().queues);
  }
  if (arguments.offset.raw() % device.block_size() != 0) {
    return fmt::format("--offset: not a multiple of the logical block size {}",
                       device.block_size());
  }
  if (arguments.size && *arguments.size > kMaxRegion) {
    return fmt::format("--size: more than {}, which is held in memory",
                       format_byte_count(kMaxRegion));
  }
  return std::nullopt;
}

RandomSource::Ranges ranges_of(std::uint32_t segments, std::uint32_t sectors,
                               const Device& device) {
  const std::uint64_t blocks = std::uint64_t{sectors} * Sector::kSize / device.block_size();
  if (segments == 0 || blocks == 0) return {};
  return {segments, blocks};
}

RandomSource::Capabilities capabilities_of(const Device& device, const VerifyArguments& arguments) {
  const blk::Config& config = device.config();
  RandomSource::Capabilities capabilities{
      .write = !device.is_read_only(),
      .flush = device.has(blk::kFeatureFlush),
      .max_blocks = VerifyJob::max_request_bytes(device, arguments) / device.block_size()};
  if (device.has(blk::kFeatureDiscard)) {
    capabilities.discard = ranges_of(config.max_discard_seg, config.max_discard_sectors, device);
  }
  if (device.has(blk::kFeatureWriteZeroes)) {
    capabilities.write_zeroes =
        ranges_of(config.max_write_zeroes_seg, config.max_write_zeroes_sectors, device);
  }
  return capabilities;
}

using VerifyJobs = std::vector<std::unique_ptr<VerifyJob>>;

Result<VerifyJobs> make_jobs(Device& device, vhost::FrontendMemory& memory,
                             const VerifyArguments& arguments, VerifyState& state) {
  const std::array regions = {memory.region()};
  const auto set = device.frontend().set_mem_table(regions);
  if (!set) return fail(set.error());
  VerifyJobs jobs;
  for (std::uint32_t i = 0; i < arguments.jobs; ++i) {
    auto job = VerifyJob::create(device, memory, arguments, state, i);
    if (!job) return fail(job.error());
    jobs.push_back(std::move(*job));
  }
  return jobs;
}

/// Whether to retry after `error`, within the time limit of `arguments`. A backend may also
/// disappear during the handshake. Sleeps briefly before a retry.
bool should_retry(const Error& error, Clock::time_point since, const VerifyArguments& arguments) {
  if (error.kind != ErrorKind::kClosed && error.kind != ErrorKind::kHost) return false;
  if (Clock::now() - since > arguments.target.deadline || is_interrupted()) return false;
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return true;
}

/// Reconnects the jobs to the next backend.
class Reconnector {
 public:
  Reconnector(Device& device, const VerifyArguments& arguments, const vhost::FrontendMemory& memory,
              const VerifyJobs& jobs)
      : device_(device), arguments_(arguments), memory_(memory), jobs_(jobs) {}

  /// Retries until success, the time limit, or a signal.
  Result<> run() {
    const Clock::time_point since = Clock::now();
    auto done = try_once();
    while (!done && should_retry(done.error(), since, arguments_)) done = try_once();
    if (!done) return done;
    ++count_;
    longest_ = std::max(longest_, Clock::now() - since);
    return {};
  }

  [[nodiscard]] unsigned count() const { return count_; }
  [[nodiscard]] double longest_ms() const {
    return std::chrono::duration<double, std::milli>(longest_).count();
  }

 private:
  Result<> try_once() {
    auto done = device_.reconnect(arguments_.target, memory_);
    for (const auto& job : jobs_) {
      if (done) done = job->resume(device_);
    }
    return done;
  }

  Device& device_;
  const VerifyArguments& arguments_;
  const vhost::FrontendMemory& memory_;
  const VerifyJobs& jobs_;
  unsigned count_ = 0;
  Clock::duration longest_{};
};

/// The phases of a verification, run in sequence on the same jobs.
class Verification {
 public:
  Verification(Device& device, const VerifyArguments& arguments, VerifyState& state,
               const VerifyJobs& jobs, Reconnector& reconnector)
      : device_(device),
        arguments_(arguments),
        state_(state),
        jobs_(jobs),
        reconnector_(reconnector) {}

  /// Returns the failure, if any.
  std::optional<JobsFailure> run() {
    const std::uint64_t chunk =
        VerifyJob::max_request_bytes(device_, arguments_) / device_.block_size();
    SweepSource first(state_.model,
                      device_.is_read_only() ? OperationKind::kRead : OperationKind::kWrite, chunk);
    auto failure = run_phase("filling", first, OnRead::kLearn);
    if (failure) return failure;
    RandomSource random(state_.model, capabilities_of(device_, arguments_), arguments_.operations);
    failure = run_phase("verifying", random, OnRead::kCompare);
    if (failure) return failure;
    SweepSource last(state_.model, OperationKind::kRead, chunk);
    return run_phase("final read", last, OnRead::kCompare);
  }

  [[nodiscard]] bool is_stopped() const { return flags_.stop; }

 private:
  std::optional<JobsFailure> run_phase(const char* name, OperationSource& source, OnRead on_read) {
    std::vector<std::function<void()>> functions;
    for (const auto& job : jobs_) {
      functions.emplace_back([&] { job->run(source, on_read, flags_); });
    }
    std::function<Result<>()> reconnect;
    if (arguments_.reconnect) reconnect = [this] { return reconnector_.run(); };
    auto failure = run_jobs(device_, flags_, functions, [&] { show(name); }, reconnect);
    for (const auto& job : jobs_) {
      if (job->failure() && !failure) failure = JobsFailure{*job->failure()};
    }
    return failure;
  }

  void show(const char* name) {
    std::uint64_t done = 0;
    for (const auto& count : state_.done) done += count;
    line_.show(fmt::format("{}: {} requests, {} read, {} written", name, done,
                           format_byte_count(ByteCount(state_.bytes_read)),
                           format_byte_count(ByteCount(state_.bytes_written))));
  }

  Device& device_;
  const VerifyArguments& arguments_;
  VerifyState& state_;
  const VerifyJobs& jobs_;
  Reconnector& reconnector_;
  StopFlags flags_;
  ProgressLine line_;
};

void report(const VerifyArguments& arguments, const VerifyState& state) {
  std::uint64_t all = 0;
  std::string kinds;
  for (std::size_t i = 0; i < kOperationKinds; ++i) {
    all += state.done[i];
    if (state.done[i] == 0) continue;
    kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", state.done[i].load(),
                         to_text(static_cast<OperationKind>(i)));
  }
  fmt::print("verified: {} random requests, {} to fill and read back, {} descriptors\n",
             arguments.operations, all - arguments.operations, state.descriptors.load());
  fmt::print("          {}\n", kinds);
  fmt::print("          {} read and compared, {} written, layout {}, --seed {}\n",
             format_byte_count(ByteCount(state.bytes_read)),
             format_byte_count(ByteCount(state.bytes_written)),
             arguments.layout == Layout::kAny ? "any" : "simple", arguments.seed);
  for (const std::string& note : state.notes) fmt::print("note:     {}\n", note);
}

/// Returns the exit status, or an error from before the first request.
Result<int> verify_once(const VerifyArguments& arguments) {
  auto device = Device::open(arguments.target);
  if (!device) return fail(device.error());
  if (const auto violation = check_device_limits(*device, arguments)) {
    return complain(kExitUsage, *violation);
  }
  const auto region =
      region_of(FileOffset(arguments.offset.raw()), arguments.size, device->capacity(),
                ByteCount(device->block_size()), kDefaultRegion);
  if (!region) return complain(kExitUsage, region.error().to_string());
  auto memory =
      vhost::FrontendMemory::create(VerifyJob::memory_for(*device, arguments) * arguments.jobs);
  if (!memory) return fail(memory.error());
  VerifyState state(*region, device->block_size());
  if (arguments.reconnect) {
    const auto enabled = device->enable_inflight_record(static_cast<std::uint16_t>(arguments.jobs),
                                                        VerifyJob::kRingSize);
    if (!enabled) return fail(enabled.error());
  }
  const auto jobs = make_jobs(*device, *memory, arguments, state);
  if (!jobs) return fail(jobs.error());

  install_signal_handlers();
  std::optional<JobsFailure> failure;
  bool is_stopped = false;
  Reconnector reconnector(*device, arguments, *memory, *jobs);
  {
    Verification verification(*device, arguments, state, *jobs, reconnector);
    failure = verification.run();
    is_stopped = verification.is_stopped();
  }
  if (failure) return complain(failure->status, failure->text);
  for (const auto& job : *jobs) {
    const auto finished = job->finish(*device);
    if (!finished) return complain(finished.error());
  }
  if (is_stopped) return complain(kExitFailed, "interrupted before the end of the verification");
  report(arguments, state);
  if (arguments.reconnect) {
    fmt::print("          reconnects: {}, longest outage {:.1f} ms\n", reconnector.count(),
               reconnector.longest_ms());
  }
  return 0;
}

}  // namespace

int verify_disk(const VerifyArguments& arguments) {
  const Clock::time_point since = Clock::now();
  auto status = verify_once(arguments);
  while (!status && arguments.reconnect && should_retry(status.error(), since, arguments)) {
    status = verify_once(arguments);
  }
  return status ? *status : complain(status.error());
}

}  // namespace guestio::load
