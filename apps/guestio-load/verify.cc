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

constexpr ByteCount kUsualRegion(std::uint64_t{16} << 20);
constexpr ByteCount kLargestRegion(std::uint64_t{4} << 30);

/// What this device cannot do for these arguments, if there is anything.
std::optional<std::string> find_misfit(const Device& device, const VerifyArguments& arguments) {
  if (arguments.jobs > device.session().queues) {
    return fmt::format("--numjobs: the backend has {} queues", device.session().queues);
  }
  if (arguments.offset.raw() % device.block_size() != 0) {
    return fmt::format("--offset: the disk's block size is {}", device.block_size());
  }
  if (arguments.size && *arguments.size > kLargestRegion) {
    return fmt::format("--size: at most {}, all of it is held in memory",
                       format_byte_count(kLargestRegion));
  }
  return std::nullopt;
}

RandomSource::Ranges ranges_of(std::uint32_t segments, std::uint32_t sectors,
                               const Device& device) {
  const std::uint64_t blocks = std::uint64_t{sectors} * Sector::kSize / device.block_size();
  if (segments == 0 || blocks == 0) return {};
  return {segments, blocks};
}

RandomSource::Abilities abilities_of(const Device& device, const VerifyArguments& arguments) {
  const blk::Config& config = device.config();
  RandomSource::Abilities abilities{
      .write = !device.is_read_only(),
      .flush = device.has(blk::kFeatureFlush),
      .largest = VerifyJob::largest_request(device, arguments) / device.block_size()};
  if (device.has(blk::kFeatureDiscard)) {
    abilities.discard = ranges_of(config.max_discard_seg, config.max_discard_sectors, device);
  }
  if (device.has(blk::kFeatureWriteZeroes)) {
    abilities.write_zeroes =
        ranges_of(config.max_write_zeroes_seg, config.max_write_zeroes_sectors, device);
  }
  return abilities;
}

using VerifyJobs = std::vector<std::unique_ptr<VerifyJob>>;

Result<VerifyJobs> make_jobs(Device& device, vhost::FrontendMemory& memory,
                             const VerifyArguments& arguments, VerifyState& state) {
  const std::array regions = {memory.region()};
  const auto told = device.frontend().set_mem_table(regions);
  if (!told) return fail(told.error());
  VerifyJobs jobs;
  for (std::uint32_t i = 0; i < arguments.jobs; ++i) {
    auto job = VerifyJob::create(device, memory, arguments, state, i);
    if (!job) return fail(job.error());
    jobs.push_back(std::move(*job));
  }
  return jobs;
}

/// Whether to try again after `error`, for so long as the time limit of `arguments` allows: a
/// backend that goes away while we talk to it is as good as one that is not there yet. Waits a
/// little if so.
bool may_come_back(const Error& error, Clock::time_point since, const VerifyArguments& arguments) {
  if (error.kind != ErrorKind::kClosed && error.kind != ErrorKind::kHost) return false;
  if (Clock::now() - since > arguments.target.deadline || is_asked_to_end()) return false;
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return true;
}

/// Brings the jobs over to the backend that comes after the present one.
class Succession {
 public:
  Succession(Device& device, const VerifyArguments& arguments, const vhost::FrontendMemory& memory,
             const VerifyJobs& jobs)
      : device_(device), arguments_(arguments), memory_(memory), jobs_(jobs) {}

  /// Tries until it works, the time limit has passed, or a person loses patience.
  Result<> run() {
    const Clock::time_point since = Clock::now();
    auto done = try_once();
    while (!done && may_come_back(done.error(), since, arguments_)) done = try_once();
    if (!done) return done;
    ++times_;
    longest_ = std::max(longest_, Clock::now() - since);
    return {};
  }

  [[nodiscard]] unsigned times() const { return times_; }
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
  unsigned times_ = 0;
  Clock::duration longest_{};
};

/// The steps of a verification, one after the other on the same jobs.
class Verification {
 public:
  Verification(Device& device, const VerifyArguments& arguments, VerifyState& state,
               const VerifyJobs& jobs, Succession& succession)
      : device_(device),
        arguments_(arguments),
        state_(state),
        jobs_(jobs),
        succession_(succession) {}

  /// Returns what went wrong, if anything did.
  std::optional<JobsFailure> run() {
    const std::uint64_t chunk =
        VerifyJob::largest_request(device_, arguments_) / device_.block_size();
    SweepSource first(state_.model,
                      device_.is_read_only() ? OperationKind::kRead : OperationKind::kWrite, chunk);
    auto failure = step("filling", first, OnRead::kLearn);
    if (failure) return failure;
    RandomSource random(state_.model, abilities_of(device_, arguments_), arguments_.operations);
    failure = step("verifying", random, OnRead::kCompare);
    if (failure) return failure;
    SweepSource last(state_.model, OperationKind::kRead, chunk);
    return step("reading again", last, OnRead::kCompare);
  }

  [[nodiscard]] bool was_stopped() const { return flags_.stop; }

 private:
  std::optional<JobsFailure> step(const char* name, OperationSource& source, OnRead on_read) {
    std::vector<std::function<void()>> functions;
    for (const auto& job : jobs_) {
      functions.emplace_back([&] { job->run(source, on_read, flags_); });
    }
    std::function<Result<>()> reconnect;
    if (arguments_.reconnect) reconnect = [this] { return succession_.run(); };
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
  Succession& succession_;
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
  fmt::print("verified: {} requests at random, {} to fill and read again, {} descriptors\n",
             arguments.operations, all - arguments.operations, state.descriptors.load());
  fmt::print("          {}\n", kinds);
  fmt::print("          {} read and compared, {} written, layout {}, --seed {}\n",
             format_byte_count(ByteCount(state.bytes_read)),
             format_byte_count(ByteCount(state.bytes_written)),
             arguments.layout == Layout::kAny ? "any" : "simple", arguments.seed);
  for (const std::string& note : state.notes) fmt::print("note:     {}\n", note);
}

/// Returns the exit status; an error is one that came before the first request was made.
Result<int> verify_once(const VerifyArguments& arguments) {
  auto device = Device::open(arguments.target);
  if (!device) return fail(device.error());
  if (const auto misfit = find_misfit(*device, arguments)) {
    return complain(kExitUsage, *misfit);
  }
  const auto region = region_of(FileOffset(arguments.offset.raw()), arguments.size,
                                device->capacity(), ByteCount(device->block_size()), kUsualRegion);
  if (!region) return complain(kExitUsage, region.error().to_string());
  auto memory =
      vhost::FrontendMemory::create(VerifyJob::memory_for(*device, arguments) * arguments.jobs);
  if (!memory) return fail(memory.error());
  VerifyState state(*region, device->block_size());
  if (arguments.reconnect) {
    const auto kept =
        device->keep_record(static_cast<std::uint16_t>(arguments.jobs), VerifyJob::kRingSize);
    if (!kept) return fail(kept.error());
  }
  const auto jobs = make_jobs(*device, *memory, arguments, state);
  if (!jobs) return fail(jobs.error());

  end_on_signals();
  std::optional<JobsFailure> failure;
  bool stopped = false;
  Succession succession(*device, arguments, *memory, *jobs);
  {
    Verification verification(*device, arguments, state, *jobs, succession);
    failure = verification.run();
    stopped = verification.was_stopped();
  }
  if (failure) return complain(failure->status, failure->text);
  for (const auto& job : *jobs) {
    const auto finished = job->finish(*device);
    if (!finished) return complain(finished.error());
  }
  if (stopped) return complain(kExitFailed, "stopped before all was verified");
  report(arguments, state);
  if (arguments.reconnect) {
    fmt::print(
        "          {} backends came after the first; the longest wait for one took {:.1f} ms\n",
        succession.times(), succession.longest_ms());
  }
  return 0;
}

}  // namespace

int verify_disk(const VerifyArguments& arguments) {
  const Clock::time_point since = Clock::now();
  auto status = verify_once(arguments);
  while (!status && arguments.reconnect && may_come_back(status.error(), since, arguments)) {
    status = verify_once(arguments);
  }
  return status ? *status : complain(status.error());
}

}  // namespace guestio::load
