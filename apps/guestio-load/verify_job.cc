// SPDX-License-Identifier: MIT
#include "apps/guestio-load/verify_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <thread>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

namespace blk = virtio::blk;
using std::chrono::milliseconds;
using Draw = OperationSource::Draw;

namespace {

// Close to the wrap-around of the ring index.
constexpr std::uint16_t kFirstIndex = 65500;
constexpr std::uint32_t kMaxDescriptors = 64;
// Bytes of a request beside the data: the header, and the ranges of a discard.
constexpr std::size_t kMaxHeaderBytes = 4096;

RequestLayout::Limits limits_of(const Device& device) {
  const std::uint32_t descriptors =
      std::min<std::uint32_t>(device.max_segments(), kMaxDescriptors - 2) + 2;
  return {.descriptors = descriptors, .descriptor_bytes = device.max_segment_bytes()};
}

RequestQueue::Options queue_options(const Device& device, const VerifyArguments& arguments,
                                    std::uint32_t index) {
  // Close to the end of the ring, for an early wrap-around.
  constexpr virtio::PackedPosition kFirstPosition{.index = VerifyJob::kRingSize - 1, .wrap = false};
  const bool is_packed = device.has(virtio::kFeatureRingPacked);
  return {.index = index,
          .size = VerifyJob::kRingSize,
          .slots = arguments.depth,
          .descriptors = limits_of(device).descriptors,
          .first_index = is_packed ? kFirstPosition.to_word() : kFirstIndex};
}

blk::RequestType type_of(OperationKind kind) {
  switch (kind) {
    case OperationKind::kRead: return blk::RequestType::kIn;
    case OperationKind::kWrite: return blk::RequestType::kOut;
    case OperationKind::kFlush: return blk::RequestType::kFlush;
    case OperationKind::kDiscard: return blk::RequestType::kDiscard;
    case OperationKind::kWriteZeroes: return blk::RequestType::kWriteZeroes;
    case OperationKind::kGetId: return blk::RequestType::kGetId;
  }
  return blk::RequestType::kGetId;
}

template <typename T>
void append(const T& value, std::vector<std::byte>& to) {
  const std::size_t before = to.size();
  to.resize(before + sizeof value);
  std::memcpy(to.data() + before, &value, sizeof value);
}

void append_random(std::size_t count, std::mt19937_64& engine, std::vector<std::byte>& to) {
  for (std::size_t done = 0; done < count; done += sizeof(std::uint64_t)) append(engine(), to);
}

/// Eight bytes from `index` on, in hexadecimal.
std::string excerpt(std::span<const std::byte> bytes, std::size_t index) {
  const auto part = bytes.subspan(index, std::min<std::size_t>(8, bytes.size() - index));
  std::string text;
  for (const std::byte byte : part) text += fmt::format(" {:02x}", std::to_integer<int>(byte));
  return text;
}

}  // namespace

std::uint64_t VerifyJob::max_request_bytes(const Device& device, const VerifyArguments& arguments) {
  const RequestLayout::Limits limits = limits_of(device);
  // Half of the descriptors hold the data; the others are for random cuts.
  const std::uint64_t limit = std::uint64_t{limits.descriptor_bytes} *
                              std::max<std::uint32_t>((limits.descriptors - 2) / 2, 1);
  const std::uint64_t bytes = std::min(arguments.max_request.raw(), limit);
  return std::max<std::uint64_t>(align_down(bytes, device.block_size()), device.block_size());
}

std::size_t VerifyJob::memory_for(const Device& device, const VerifyArguments& arguments) {
  const std::size_t arena = RequestLayout::arena_bytes(
      max_request_bytes(device, arguments) + kMaxHeaderBytes, limits_of(device));
  return RequestQueue::memory_for(queue_options(device, arguments, 0)) +
         (arena + kPageSize) * arguments.depth;
}

Result<std::unique_ptr<VerifyJob>> VerifyJob::create(Device& device, vhost::FrontendMemory& memory,
                                                     const VerifyArguments& arguments,
                                                     VerifyState& state, std::uint32_t index) {
  auto queue = RequestQueue::create(device, memory, queue_options(device, arguments, index));
  if (!queue) return fail(queue.error());
  std::unique_ptr<VerifyJob> job(new VerifyJob(arguments, state, std::move(*queue), index));
  const RequestLayout::Limits limits = limits_of(device);
  const std::size_t bytes =
      RequestLayout::arena_bytes(max_request_bytes(device, arguments) + kMaxHeaderBytes, limits);
  for (std::uint32_t i = 0; i < arguments.depth; ++i) {
    const auto arena = memory.allocate(bytes, kPageSize);
    if (!arena) return fail(arena.error());
    job->slots_.emplace_back(RequestLayout(*arena, limits));
    job->free_.push_back(i);
  }
  return job;
}

VerifyJob::VerifyJob(const VerifyArguments& arguments, VerifyState& state, RequestQueue queue,
                     std::uint32_t index)
    : arguments_(arguments),
      state_(state),
      queue_(std::move(queue)),
      // Distant seeds per job; the seeding of the generator spreads them further.
      engine_(arguments.seed + index * 0x9e3779b97f4a7c15) {}

void VerifyJob::run(OperationSource& source, OnRead on_read, StopFlags& flags) {
  const auto done = loop(source, on_read, flags);
  if (!done && !failure_) failure_ = done.error().to_string();
  if (failure_) flags.stop = true;
}

Result<> VerifyJob::loop(OperationSource& source, OnRead on_read, StopFlags& flags) {
  Clock::time_point progress = Clock::now();
  Draw draw = Draw::kOperation;
  while (!flags.abandon.load(std::memory_order_relaxed)) {
    const bool is_open = !flags.stop.load(std::memory_order_relaxed) && draw != Draw::kDone;
    if (!is_open && !waiting_ && queue_.in_flight() == 0) break;
    if (is_open || waiting_) {
      const auto submitted = submit(source);
      if (!submitted) return fail(submitted.error());
      draw = *submitted;
    }
    const auto reaped = reap(on_read);
    if (!reaped) return fail(reaped.error());
    if (failure_) return {};
    const Clock::time_point now = Clock::now();
    if (*reaped) {
      progress = now;
    } else if (queue_.in_flight() == 0) {
      std::this_thread::yield();  // all blocks are reserved by other jobs
    } else if (now - progress > arguments_.target.deadline) {
      failure_ = "no completion within the time limit (see --timeout)";
    } else {
      const auto slept = queue_.sleep(milliseconds(100));
      if (!slept) return slept;
    }
  }
  return {};
}

Result<Draw> VerifyJob::submit(OperationSource& source) {
  Draw draw = Draw::kOperation;
  while (waiting_ || !free_.empty()) {
    if (!waiting_) {
      Slot& slot = slots_[free_.back()];
      draw = source.draw(slot.operation, engine_);
      if (draw != Draw::kOperation) break;
      prepare(slot);
      waiting_ = free_.back();
      free_.pop_back();
    }
    Slot& slot = slots_[*waiting_];
    const auto segments = slot.layout.segments();
    if (!queue_.has_room(segments.size(), slot.form)) break;
    const auto added = queue_.add(*waiting_, segments, slot.form);
    if (!added) return fail(added.error());
    waiting_.reset();
    state_.descriptors += segments.size();
  }
  const auto sent = queue_.send();
  if (!sent) return fail(sent.error());
  return draw;
}

void VerifyJob::prepare(Slot& slot) {
  const Operation& operation = slot.operation;
  const bool has_sector =
      operation.kind == OperationKind::kRead || operation.kind == OperationKind::kWrite;
  const std::uint64_t sector =
      has_sector ? state_.model.offset_of(operation.extents[0]).raw() / Sector::kSize : 0;
  slot.readable.clear();
  append(blk::RequestHeader{type_of(operation.kind), 0, sector}, slot.readable);
  std::size_t in = 0;
  switch (operation.kind) {
    case OperationKind::kRead: in = state_.model.bytes_of(operation.extents[0]); break;
    case OperationKind::kGetId: in = blk::kIdBytes; break;
    case OperationKind::kWrite:
      append_random(state_.model.bytes_of(operation.extents[0]), engine_, slot.readable);
      break;
    case OperationKind::kFlush: break;
    case OperationKind::kDiscard:
    case OperationKind::kWriteZeroes:
      for (const auto& extent : operation.extents) {
        const bool unmap = operation.kind == OperationKind::kWriteZeroes && operation.may_unmap;
        append(blk::RangeSegment{state_.model.offset_of(extent).raw() / Sector::kSize,
                                 static_cast<std::uint32_t>(state_.model.bytes_of(extent) /
                                                            Sector::kSize),
                                 unmap ? blk::kRangeUnmap : 0},
               slot.readable);
      }
      break;
  }
  slot.written.resize(in + sizeof(blk::Status));
  slot.layout.lay(slot.readable, slot.written.size(), arguments_.layout, engine_);
  const bool indirect = queue_.has_indirect() && engine_() % 2 == 0;
  slot.form = indirect ? RequestQueue::Form::kIndirect : RequestQueue::Form::kDirect;
}

Result<bool> VerifyJob::reap(OnRead on_read) {
  bool any = false;
  while (true) {
    const auto completion = queue_.reap();
    if (!completion) return fail(completion.error());
    if (!*completion) return any;
    any = true;
    Slot& slot = slots_[(*completion)->slot];
    if (!check(slot, (*completion)->written, on_read)) return any;
    apply_to_model(slot);
    free_.push_back((*completion)->slot);
  }
}

bool VerifyJob::check(Slot& slot, std::uint32_t written, OnRead on_read) {
  slot.layout.copy_written(slot.written);
  if (const auto corruption = slot.layout.find_corruption()) {
    return fail_verification(
        slot,
        fmt::format("device changed memory outside the writable descriptors (arena offset {})",
                    *corruption));
  }
  const auto status = std::to_integer<unsigned>(slot.written.back());
  if (status != 0) return fail_verification(slot, fmt::format("status {}", status));
  if (written != slot.written.size()) {
    return fail_verification(
        slot, fmt::format("used length {}, but {} bytes written", written, slot.written.size()));
  }
  switch (slot.operation.kind) {
    case OperationKind::kRead: return check_data(slot, on_read);
    case OperationKind::kGetId: return check_id(slot);
    default: return true;
  }
}

bool VerifyJob::check_data(const Slot& slot, OnRead on_read) {
  const DiskModel::Extent extent = slot.operation.extents[0];
  const auto data = std::span(slot.written).first(slot.written.size() - sizeof(blk::Status));
  state_.bytes_read += data.size();
  if (on_read == OnRead::kLearn) {
    // Exclusive: a sweep reads each block once.
    state_.model.set(extent, data);
    return true;
  }
  const auto mismatch = state_.model.compare(extent, data);
  if (!mismatch) return true;
  return fail_verification(slot,
                           fmt::format("byte at offset {}: expected{}, found{}", mismatch->offset,
                                       excerpt(state_.model.expected(extent), mismatch->index),
                                       excerpt(data, mismatch->index)));
}

bool VerifyJob::check_id(const Slot& slot) {
  VerifyState::Id id{};
  std::ranges::copy(std::span(slot.written).first(id.size()), id.begin());
  const auto end = std::ranges::find(id, std::byte{0});
  const bool padded =
      std::all_of(end, id.end(), [](std::byte byte) { return byte == std::byte{0}; });
  if (!padded && arguments_.strict) return fail_verification(slot, "device ID not padded with NUL");
  std::fill(end, id.end(), std::byte{0});
  const std::lock_guard lock(state_.mutex);
  if (!padded) state_.notes.insert("device ID not padded with NUL to 20 bytes");
  if (!state_.id) state_.id = id;
  return *state_.id == id || fail_verification(slot, "device ID changed");
}

bool VerifyJob::fail_verification(const Slot& slot, const std::string& what) {
  failure_ = fmt::format("verification failed: {} (request {}, {} descriptors, --seed {}): {}",
                         describe(slot.operation, state_.model), slot.operation.number,
                         slot.layout.segments().size(), arguments_.seed, what);
  return false;
}

void VerifyJob::apply_to_model(const Slot& slot) {
  const Operation& operation = slot.operation;
  for (const auto& extent : operation.extents) {
    switch (operation.kind) {
      case OperationKind::kWrite:
        state_.model.set(extent, std::span(slot.readable).subspan(sizeof(blk::RequestHeader)));
        state_.bytes_written += state_.model.bytes_of(extent);
        break;
      case OperationKind::kDiscard: state_.model.forget(extent); break;
      case OperationKind::kWriteZeroes: state_.model.set_zero(extent); break;
      default: break;
    }
    state_.model.release(extent, operation.access());
  }
  ++state_.done[static_cast<std::size_t>(operation.kind)];
}

}  // namespace guestio::load
