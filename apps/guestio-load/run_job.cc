// SPDX-License-Identifier: MIT
#include "apps/guestio-load/run_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <random>
#include <span>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

namespace blk = virtio::blk;
using std::chrono::milliseconds;
using virtio::Direction;

namespace {

constexpr std::uint32_t kMinRingEntries = 128;
// Header and status of one request share a cache line, as in the Linux driver.
constexpr std::size_t kControlBytes = 64;
constexpr std::size_t kStatusOffset = sizeof(blk::RequestHeader);
// Polls per clock read; the clock costs more than a poll.
constexpr int kPollsPerClock = 64;

/// Bytes of each data segment but the last, which takes the rest.
std::uint64_t segment_bytes(const RunArguments& arguments) {
  return align_down(arguments.block_size.raw() / arguments.segments, Sector::kSize);
}

RequestQueue::Options queue_options(const Device& device, const RunArguments& arguments,
                                    std::uint32_t index) {
  const std::uint64_t needed = RunJob::ring_entries_needed(device, arguments);
  return {.index = index,
          .size = arguments.queue_size.value_or(static_cast<std::uint16_t>(needed)),
          .slots = arguments.depth,
          .descriptors = arguments.segments + 2};
}

/// Each data segment starts --buffer-offset after a page boundary.
std::size_t data_bytes_of_slot(const RunArguments& arguments) {
  const std::uint64_t last =
      arguments.block_size.raw() - segment_bytes(arguments) * (arguments.segments - 1);
  const auto padded = [&](std::uint64_t bytes) {
    return align_up(bytes + arguments.buffer_offset.raw(), kPageSize);
  };
  return padded(segment_bytes(arguments)) * (arguments.segments - 1) + padded(last);
}

/// Incompressible, non-zero content.
void fill_randomly(const vhost::SharedRange& range, std::mt19937_64& engine) {
  for (std::size_t i = 0; i < range.size; ++i) range.host[i] = static_cast<std::byte>(engine());
}

const char* to_text(blk::RequestType type) {
  return type == blk::RequestType::kIn ? "read" : "write";
}

}  // namespace

void DirectionTotals::merge(const DirectionTotals& other) noexcept {
  requests += other.requests;
  bytes += other.bytes;
  latency.merge(other.latency);
}

std::uint64_t RunJob::ring_entries_needed(const Device& device, const RunArguments& arguments) {
  const std::uint64_t chain = arguments.segments + 2;
  const bool indirect = device.has(virtio::kFeatureIndirectDesc);
  const std::uint64_t entries = arguments.depth * (indirect ? 1 : chain);
  return std::bit_ceil(std::max<std::uint64_t>({kMinRingEntries, entries, chain}));
}

std::size_t RunJob::memory_for(const Device& device, const RunArguments& arguments) {
  const std::size_t slot = kControlBytes + data_bytes_of_slot(arguments);
  return RequestQueue::memory_for(queue_options(device, arguments, 0)) + slot * arguments.depth +
         2 * kPageSize;
}

Result<std::unique_ptr<RunJob>> RunJob::create(Device& device, vhost::FrontendMemory& memory,
                                               const RunArguments& arguments, DiskRegion region,
                                               std::uint32_t index) {
  auto queue = RequestQueue::create(device, memory, queue_options(device, arguments, index));
  if (!queue) return fail(queue.error());
  std::unique_ptr<RunJob> job(new RunJob(arguments, region, index, std::move(*queue)));
  const auto made = job->make_slots(memory);
  if (!made) return fail(made.error());
  return job;
}

RunJob::RunJob(const RunArguments& arguments, DiskRegion region, std::uint32_t index,
               RequestQueue queue)
    : arguments_(arguments),
      workload_(arguments, region, index),
      queue_(std::move(queue)),
      form_(queue_.has_indirect() ? RequestQueue::Form::kIndirect : RequestQueue::Form::kDirect) {}

Result<> RunJob::make_slots(vhost::FrontendMemory& memory) {
  std::mt19937_64 engine(arguments_.seed);
  const auto controls = memory.allocate(kControlBytes * arguments_.depth, kPageSize);
  if (!controls) return fail(controls.error());
  for (std::uint32_t i = 0; i < arguments_.depth; ++i) {
    Slot& slot = slots_.emplace_back();
    const auto control = controls->part(kControlBytes * i, kControlBytes);
    // Safe: integers in shared memory, aligned to a cache line.
    slot.header = reinterpret_cast<blk::RequestHeader*>(control.host);
    slot.status = control.host + kStatusOffset;
    slot.segments.push_back({control.gpa, sizeof(blk::RequestHeader), Direction::kReadable});
    std::uint64_t left = arguments_.block_size.raw();
    for (std::uint32_t s = 0; s < arguments_.segments; ++s) {
      const bool last = s + 1 == arguments_.segments;
      const std::uint64_t bytes = last ? left : segment_bytes(arguments_);
      const std::uint64_t before = arguments_.buffer_offset.raw();
      const auto range = memory.allocate(before + bytes, kPageSize);
      if (!range) return fail(range.error());
      const auto data = range->part(before, bytes);
      fill_randomly(data, engine);
      slot.segments.push_back({data.gpa, static_cast<std::uint32_t>(bytes), Direction::kReadable});
      left -= bytes;
    }
    slot.segments.push_back({control.gpa.plus_unchecked(kStatusOffset), 1, Direction::kWritable});
    free_.push_back(i);
  }
  reaped_.reserve(arguments_.depth);
  return {};
}

void RunJob::run(const Window& window, StopFlags& flags) {
  const auto done = loop(window, flags);
  if (!done && !failure_) failure_ = done.error().to_string();
  if (failure_) flags.stop = true;
}

Result<> RunJob::loop(const Window& window, StopFlags& flags) {
  const int polls = arguments_.poll ? kPollsPerClock : 1;
  const auto suppressed = queue_.suppress_calls();
  if (!suppressed) return suppressed;
  Clock::time_point now = Clock::now();
  Clock::time_point progress = now;
  while (!flags.abandon.load(std::memory_order_relaxed)) {
    const bool is_open = now < window.to && !flags.stop.load(std::memory_order_relaxed);
    if (!is_open && queue_.in_flight() == 0) break;
    if (is_open) {
      const auto submitted = submit(now);
      if (!submitted) return submitted;
    }
    auto reaped = reap(window);
    for (int i = 1; i < polls && reaped && !*reaped; ++i) reaped = reap(window);
    if (!reaped) return fail(reaped.error());
    if (*reaped) {
      // One clock read per batch: the completion time of this batch is the start of the next one.
      progress = now = **reaped;
      continue;
    }
    now = Clock::now();
    if (now - progress > arguments_.target.deadline) {
      failure_ = "no completion within the time limit (see --timeout)";
      return {};
    }
    if (!arguments_.poll) {
      const auto slept = queue_.sleep(milliseconds(100));
      if (!slept) return slept;
    }
  }
  return {};
}

Result<> RunJob::submit(Clock::time_point now) {
  while (!free_.empty() && queue_.has_room(arguments_.segments + 2, form_)) {
    const std::uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.request = workload_.next();
    *slot.header = {slot.request.type, 0, slot.request.offset.raw() / Sector::kSize};
    *slot.status = std::byte{0xff};
    const auto direction =
        slot.request.type == blk::RequestType::kIn ? Direction::kWritable : Direction::kReadable;
    for (auto& data : std::span(slot.segments).subspan(1, arguments_.segments)) {
      data.direction = direction;
    }
    slot.since = now;
    const auto added = queue_.add(index, slot.segments, form_);
    if (!added) return added;
  }
  return queue_.send();
}

Result<std::optional<Clock::time_point>> RunJob::reap(const Window& window) {
  reaped_.clear();
  while (true) {
    const auto completion = queue_.reap();
    if (!completion) return fail(completion.error());
    if (!*completion) break;
    reaped_.push_back(**completion);
    // Written by the device's core: prefetch the whole batch.
    __builtin_prefetch(slots_[(*completion)->slot].status);
  }
  if (reaped_.empty()) return std::nullopt;
  const Clock::time_point now = Clock::now();
  for (const auto& completion : reaped_) {
    const auto done = complete(completion, now, window);
    if (!done) return fail(done.error());
  }
  return now;
}

Result<> RunJob::complete(const RequestQueue::Completion& completion, Clock::time_point now,
                          const Window& window) {
  const Slot& slot = slots_[completion.slot];
  const bool is_read = slot.request.type == blk::RequestType::kIn;
  const auto status = std::to_integer<unsigned>(*slot.status);
  if (status != std::to_underlying(blk::Status::kOk)) {
    failure_ = fmt::format("{} of {} bytes at offset {}: status {}", to_text(slot.request.type),
                           arguments_.block_size.raw(), slot.request.offset.raw(), status);
    return fail(ErrorKind::kPeerFault, "request");
  }
  free_.push_back(completion.slot);
  ++(is_read ? reads_completed_ : writes_completed_);
  if (now < window.from || now > window.to) return {};
  DirectionTotals& totals = is_read ? totals_.read : totals_.write;
  ++totals.requests;
  totals.bytes += arguments_.block_size.raw();
  totals.latency.record(static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(now - slot.since).count()));
  return {};
}

}  // namespace guestio::load
