// SPDX-License-Identifier: MIT
#include "guestio/blk/block_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::blk {

namespace vblk = virtio::blk;

namespace {

constexpr std::size_t kGroup = 16;  // chains that are taken before the first is begun

/// Not an error when the byte is there and only a dirty log could not be told: a driver that looks
/// finds the status.
[[gnu::noinline]] Result<> check_status(const mem::GuestMemory& memory, Gpa at, vblk::Status status,
                                        const Error& error) noexcept {
  const auto present = memory.load<std::uint8_t>(at);
  if (!present || *present != static_cast<std::uint8_t>(status)) return fail(error);
  return {};
}

Result<> write_status(const mem::GuestMemory& memory, Gpa at, vblk::Status status) noexcept {
  const auto written = memory.store<std::uint8_t>(at, static_cast<std::uint8_t>(status));
  if (written) [[likely]]
    return {};
  return check_status(memory, at, status, written.error());
}

}  // namespace

using disk::IoKind;
using vblk::RequestType;

/// One request from the pool, from its chain to its answer. While the disk works on it, it is the
/// disk's Io.
class BlockQueue::Request final : public disk::Io, public boost::intrusive::slist_base_hook<> {
 public:
  explicit Request(BlockQueue& owner) noexcept : owner_(&owner) {}

  [[nodiscard]] virtio::PoppedChain& taken() noexcept { return taken_; }

  /// Parses the chain and starts what it asks for.
  void begin(virtio::DeviceQueue& queue) noexcept {
    queue_ = &queue;
    if (--owner_->until_timed_ == 0) start_clock();
    bytes_moved_ = 0;
    // What parse_request() may leave as it was and an answer looks at.
    parsed_.header = {};
    parsed_.status.reset();
    if (auto parsed = parse_request(taken_, parsed_); !parsed) return answer_error(parsed.error());
    switch (parsed_.header.type) {
      case RequestType::kIn: return begin_transfer(IoKind::kRead, parsed_.writable_data);
      case RequestType::kOut: return begin_transfer(IoKind::kWrite, parsed_.readable_data);
      case RequestType::kFlush: return begin_flush();
      case RequestType::kGetId: return answer_id();
      case RequestType::kGetLifetime: return answer_lifetime();
      case RequestType::kDiscard: return begin_ranges(IoKind::kDiscard);
      case RequestType::kWriteZeroes: return begin_ranges(IoKind::kWriteZeroes);
      case RequestType::kSecureErase: return begin_ranges(IoKind::kSecureErase);
      case RequestType::kFlushOut:
        if ((queue.features() & virtio::kFeatureVersion1) == 0) return begin_flush();
        [[fallthrough]];
      default:
        return answer_error(Error::make(ErrorKind::kUnsupported, "request type",
                                        static_cast<std::uint32_t>(parsed_.header.type)));
    }
  }

  void on_done(Result<> result) noexcept override {
    if (!result) return on_failure(result.error());
    if (attempts_ != 0) settle();
    if (kind != IoKind::kFlush) bytes_moved_ += length;
    if (is_range_kind() && next_range_ < ranges_.count) return start_next_range();
    answer(vblk::Status::kOk, kind == IoKind::kRead ? length : 0);
  }

  /// After a pause: the disk is asked once more, or the guest is told.
  void resume() noexcept {
    if (is_given_up_) return answer_error(failure_);
    owner_->channel_->start(*this);
  }
  [[nodiscard]] bool is_parked() const noexcept { return is_parked_; }
  void set_parked(bool is_parked) noexcept { is_parked_ = is_parked; }
  /// Ends it without an answer.
  void abandon() noexcept {
    attempts_ = 0;
    is_given_up_ = is_held_ = false;
    begun_ = {};
    queue_->abandon(taken_);
    owner_->free_->push_front(*this);
  }
  /// Has go_on() tell the guest.
  void give_up() noexcept { is_given_up_ = is_held_; }
  [[nodiscard]] std::uint32_t attempts() const noexcept { return attempts_; }

 private:
  void on_failure(const Error& error) noexcept {
    failure_ = error;
    ++attempts_;
    const bool may_wait = !owner_->is_finishing_ && !is_given_up_;
    if (!may_wait || !owner_->policy_.should_retry(error, attempts_)) return answer_error(error);
    if (!std::exchange(is_held_, true)) owner_->note_held(error);
    if (owner_->is_quiesced_) return owner_->park(*this);
    owner_->holding_.spawn(owner_->hold(*this));
  }

  /// The end of being held, whichever it is.
  void settle() noexcept {
    attempts_ = 0;
    is_given_up_ = false;
    if (std::exchange(is_held_, false)) owner_->note_settled();
  }

  [[nodiscard]] const BlockDevice& device() const noexcept { return owner_->device_; }
  [[nodiscard]] bool is_range_kind() const noexcept {
    return kind == IoKind::kDiscard || kind == IoKind::kWriteZeroes || kind == IoKind::kSecureErase;
  }

  void start_clock() noexcept {
    owner_->until_timed_ = QueueStatistics::kTimedEvery;
    begun_ = Clock::now();
  }

  /// What it counts as.
  [[nodiscard]] RequestKind counted_kind() const noexcept {
    switch (parsed_.header.type) {
      case RequestType::kIn: return RequestKind::kRead;
      case RequestType::kOut: return RequestKind::kWrite;
      case RequestType::kFlush:
      case RequestType::kFlushOut: return RequestKind::kFlush;
      case RequestType::kDiscard: return RequestKind::kDiscard;
      case RequestType::kWriteZeroes: return RequestKind::kWriteZeroes;
      case RequestType::kSecureErase: return RequestKind::kSecureErase;
      default: return RequestKind::kOther;
    }
  }

  void count(vblk::Status status) noexcept {
    QueueStatistics::Kind& counts = owner_->statistics_.of(counted_kind());
    ++counts.requests;
    if (status == vblk::Status::kOk) {
      counts.bytes += bytes_moved_;
    } else {
      ++counts.errors;
    }
    if (begun_ == Clock::time_point()) return;
    owner_->statistics_.latency.note(Clock::now() - std::exchange(begun_, {}));
  }

  void begin_transfer(IoKind transfer, const buf::RequestBuffers& data) noexcept {
    const auto start = Sector(parsed_.header.sector).to_offset();
    if (!start) return answer_error(beyond_end(parsed_.header.sector));
    kind = transfer;
    offset = *start;
    length = data.size();
    buffers = data;
    start_checked();
  }

  void begin_flush() noexcept {
    kind = IoKind::kFlush;
    start_checked();
  }

  void begin_ranges(IoKind range_kind) noexcept {
    granularity = BlockDevice::granularity(queue_->features());
    auto ranges = parse_ranges(parsed_, device().max_ranges());
    if (!ranges) return answer_error(ranges.error());
    kind = range_kind;
    ranges_ = *ranges;
    // All are checked before the first is done.
    for (next_range_ = 0; next_range_ < ranges_.count;) {
      if (auto checked = take_next_range(); !checked) return answer_error(checked.error());
    }
    next_range_ = 0;
    start_next_range();
  }

  /// Makes the next range the one to work on.
  Result<> take_next_range() noexcept {
    const vblk::RangeSegment& range = ranges_.all()[next_range_++];
    const auto start = Sector(range.sector).to_offset();
    if (!start) return fail(beyond_end(range.sector));
    offset = *start;
    length = std::uint64_t{range.num_sectors} * Sector::kSize;
    unmap =
        (range.flags & vblk::kRangeUnmap) != 0 ? disk::Unmap::kAllowed : disk::Unmap::kForbidden;
    return disk::check_io(device().disk(), *this);
  }

  void start_next_range() noexcept {
    if (auto taken = take_next_range(); !taken) return answer_error(taken.error());
    start_checked();
  }

  void start_checked() noexcept {
    const virtio::FeatureBits negotiated = queue_->features();
    durability = device().write_durability(negotiated);
    granularity = BlockDevice::granularity(negotiated);
    if (auto checked = disk::check_io(device().disk(), *this); !checked) {
      return answer_error(checked.error());
    }
    owner_->channel_->start(*this);
  }

  void answer_id() noexcept { answer_with(device().id()); }

  void answer_lifetime() noexcept {
    const auto lifetime = owner_->channel_->lifetime();
    if (!lifetime) return answer_error(lifetime.error());
    const vblk::Lifetime told{.pre_eol_info = lifetime->pre_eol_info,
                              .device_lifetime_est_typ_a = lifetime->estimate_type_a,
                              .device_lifetime_est_typ_b = lifetime->estimate_type_b};
    answer_with(std::as_bytes(std::span(&told, 1)));
  }

  /// To a question that no data goes with.
  void answer_with(std::span<const std::byte> bytes) noexcept {
    if (parsed_.writable_data.size() < bytes.size()) {
      return answer_error(
          Error::peer_fault("room for the answer to a question", parsed_.writable_data.size()));
    }
    if (auto written = parsed_.writable_data.writer().write(bytes); !written) {
      return answer_error(written.error());
    }
    answer(vblk::Status::kOk, bytes.size());
  }

  [[nodiscard]] static Error beyond_end(std::uint64_t sector) noexcept {
    return Error::make(ErrorKind::kOutOfRange, "sector", sector);
  }

  void answer_error(const Error& error) noexcept {
    settle();
    log::rate_limited_warning(device().failure_log(),
                              "{}: a guest's request failed (type {}, sector {}): {}",
                              owner_->label_, static_cast<std::uint32_t>(parsed_.header.type),
                              parsed_.header.sector, error.to_string());
    answer(to_status(error), 0);
  }

  /// Writes the status and gives the chain back. `data_written` are bytes before the status.
  void answer(vblk::Status status, std::uint64_t data_written) noexcept {
    count(status);
    virtio::DeviceQueue& queue = *queue_;
    if (const auto told = tell(status); told) [[likely]] {
      // A chain has at most 4 GiB in all, of which the header takes 16 bytes.
      queue.complete(taken_, static_cast<std::uint32_t>(data_written + 1));
    } else {
      queue.break_on(taken_, told.error());
    }
    owner_->free_->push_front(*this);
  }

  /// Errors: peer fault (no byte for it), memory fault, out of range.
  [[nodiscard]] Result<> tell(vblk::Status status) const noexcept {
    if (!parsed_.status) {
      return fail(Error::peer_fault("request without room for its status", taken_.chain.head()));
    }
    return write_status(taken_.memory(), *parsed_.status, status);
  }

  using Clock = std::chrono::steady_clock;

  BlockQueue* owner_;
  virtio::DeviceQueue* queue_ = nullptr;
  virtio::PoppedChain taken_;
  ParsedRequest parsed_;
  ParsedRanges ranges_;
  std::size_t next_range_ = 0;
  Error failure_;  // the last of so many attempts
  std::uint32_t attempts_ = 0;
  bool is_held_ = false;
  bool is_given_up_ = false;
  bool is_parked_ = false;
  std::uint64_t bytes_moved_ = 0;
  Clock::time_point begun_;  // of a request that is timed
};

BlockQueue::BlockQueue(const BlockDevice& device, std::unique_ptr<disk::Channel> channel,
                       std::size_t requests, FailurePolicy policy, std::string label)
    : device_(device),
      label_(label.empty() ? device.name() : std::move(label)),
      channel_(std::move(channel)),
      policy_(std::move(policy)),
      free_(std::make_unique<FreeList>()) {
  GUESTIO_CHECK(policy_.on_error == OnError::kReport || policy_.timer,
                "a timer for requests that are held");
  for (std::size_t i = 0; i < requests; ++i) requests_.emplace_back(*this);
  for (Request& request : requests_) free_->push_front(request);
}

BlockQueue::~BlockQueue() {
  GUESTIO_CHECK(free_->size() == requests_.size(),
                "no request in flight on a queue that goes away");
  free_->clear();
}

task::Task<> BlockQueue::hold(Request& request) {
  auto pause =
      policy_.timer->sleep(FailurePolicy::retry_delay(request.attempts()), end_of_pauses_->token());
  co_await std::move(pause);
  if (is_quiesced_) {
    park(request);
  } else {
    request.resume();
  }
}

void BlockQueue::park(Request& request) noexcept {
  request.set_parked(true);
  ++parked_;
}

void BlockQueue::note_held(const Error& error) noexcept {
  ++held_;
  if (held_ != 1) return;
  log::rate_limited_warning(device_.failure_log(), "{}: the disk fails, requests wait for it: {}",
                            label_, error.to_string());
}

void BlockQueue::note_settled() noexcept {
  held_.set(held_ - 1);
  if (held_ != 0) return;
  log::rate_limited_warning(device_.failure_log(), "{}: no request waits for the disk any more",
                            label_);
}

void BlockQueue::retry_held() noexcept {
  // Those that meet their error again wait for the next one.
  const auto ended = std::exchange(end_of_pauses_, std::make_unique<task::StopSource>());
  ended->request_stop();
}

void BlockQueue::fail_held() noexcept {
  for (Request& request : requests_) request.give_up();
  retry_held();
}

void BlockQueue::drain() noexcept {
  is_finishing_ = true;
  retry_held();
}

void BlockQueue::quiesce() noexcept {
  is_quiesced_ = true;
  // Those that sleep until their next attempt are parked now.
  retry_held();
}

void BlockQueue::resume() noexcept {
  is_quiesced_ = false;
  parked_ = 0;
  for (Request& request : requests_) {
    if (!request.is_parked()) continue;
    request.set_parked(false);
    request.resume();
  }
}

void BlockQueue::abandon() noexcept {
  is_quiesced_ = false;
  parked_ = 0;
  for (Request& request : requests_) {
    if (!request.is_parked()) continue;
    request.set_parked(false);
    held_.set(held_ - 1);
    request.abandon();
  }
}

std::optional<std::uint32_t> BlockQueue::write_error_status(
    const virtio::PoppedChain& taken) noexcept {
  const auto status = taken.chain.last_writable();
  if (!status || !write_status(taken.memory(), *status, vblk::Status::kIoError)) {
    return std::nullopt;
  }
  return 1;
}

void BlockQueue::process(virtio::DeviceQueue& queue) noexcept {
  is_finishing_ = false;
  // In groups: while the last of a group are taken, the headers of the first are on their way here
  // from the driver's processor.
  std::array<Request*, kGroup> group;  // not zeroed: most looks find nothing
  bool has_more = true;
  while (has_more) {
    std::size_t count = 0;
    while (count < group.size()) {
      has_more = !free_->empty() && queue.pop(free_->front().taken()) == virtio::PopResult::kChain;
      if (!has_more) break;
      Request& request = free_->front();
      free_->pop_front();
      prefetch_header(request.taken());
      group[count++] = &request;
    }
    for (Request* const request : std::span(group).first(count)) request->begin(queue);
  }
}

}  // namespace guestio::blk
