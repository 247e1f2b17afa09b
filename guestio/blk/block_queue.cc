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

constexpr std::size_t kBatch = 16;  // chains popped before the first request begins

/// No error if the byte is written and only the dirty log failed: the driver finds its status.
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

/// One request of the pool, from its chain to its completion. It is the disk's Io.
class BlockQueue::Request final : public disk::Io, public boost::intrusive::slist_base_hook<> {
 public:
  explicit Request(BlockQueue& owner) noexcept : owner_(&owner) {}

  [[nodiscard]] virtio::PoppedChain& chain() noexcept { return chain_; }

  /// Parses the chain and starts the request.
  void begin(virtio::DeviceQueue& queue) noexcept {
    queue_ = &queue;
    if (--owner_->requests_until_timed_ == 0) start_clock();
    bytes_moved_ = 0;
    // A failed parse_request() may leave these unchanged, and the completion reads them.
    parsed_.header = {};
    parsed_.status.reset();
    if (auto parsed = parse_request(chain_, parsed_); !parsed)
      return complete_error(parsed.error());
    switch (parsed_.header.type) {
      case RequestType::kIn: return begin_transfer(IoKind::kRead, parsed_.writable_data);
      case RequestType::kOut: return begin_transfer(IoKind::kWrite, parsed_.readable_data);
      case RequestType::kFlush: return begin_flush();
      case RequestType::kGetId: return complete_id();
      case RequestType::kGetLifetime: return complete_lifetime();
      case RequestType::kDiscard: return begin_ranges(IoKind::kDiscard);
      case RequestType::kWriteZeroes: return begin_ranges(IoKind::kWriteZeroes);
      case RequestType::kSecureErase: return begin_ranges(IoKind::kSecureErase);
      case RequestType::kFlushOut:
        if ((queue.features() & virtio::kFeatureVersion1) == 0) return begin_flush();
        [[fallthrough]];
      default:
        return complete_error(Error::make(ErrorKind::kUnsupported, "request type",
                                          static_cast<std::uint32_t>(parsed_.header.type)));
    }
  }

  void on_done(Result<> result) noexcept override {
    if (!result) return on_failure(result.error());
    if (attempts_ != 0) end_hold();
    if (kind != IoKind::kFlush) bytes_moved_ += length;
    if (is_range_kind() && next_range_ < ranges_.count) return start_next_range();
    complete(vblk::Status::kOk, kind == IoKind::kRead ? length : 0);
  }

  /// After a pause: retries, or completes the request with its error.
  void resume() noexcept {
    if (must_fail_) return complete_error(failure_);
    owner_->channel_->start(*this);
  }
  [[nodiscard]] bool is_parked() const noexcept { return is_parked_; }
  void set_parked(bool is_parked) noexcept { is_parked_ = is_parked; }
  /// Ends it without a used entry.
  void abandon() noexcept {
    attempts_ = 0;
    must_fail_ = is_held_ = false;
    begun_ = {};
    queue_->abandon(chain_);
    owner_->free_->push_front(*this);
  }
  /// Makes resume() complete the request with its error.
  void fail_on_resume() noexcept { must_fail_ = is_held_; }
  [[nodiscard]] std::uint32_t attempts() const noexcept { return attempts_; }

 private:
  void on_failure(const Error& error) noexcept {
    failure_ = error;
    ++attempts_;
    const bool may_wait = !owner_->is_draining_ && !must_fail_;
    if (!may_wait || !owner_->policy_.should_retry(error, attempts_)) return complete_error(error);
    if (!std::exchange(is_held_, true)) owner_->count_held(error);
    if (owner_->is_quiesced_) return owner_->park(*this);
    owner_->holding_.spawn(owner_->hold(*this));
  }

  /// The request is no longer held, if it was.
  void end_hold() noexcept {
    attempts_ = 0;
    must_fail_ = false;
    if (std::exchange(is_held_, false)) owner_->count_hold_ended();
  }

  [[nodiscard]] const BlockDevice& device() const noexcept { return owner_->device_; }
  [[nodiscard]] bool is_range_kind() const noexcept {
    return kind == IoKind::kDiscard || kind == IoKind::kWriteZeroes || kind == IoKind::kSecureErase;
  }

  void start_clock() noexcept {
    owner_->requests_until_timed_ = QueueStatistics::kTimedEvery;
    begun_ = Clock::now();
  }

  /// Its kind in the statistics.
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
    owner_->statistics_.latency.record(Clock::now() - std::exchange(begun_, {}));
  }

  void begin_transfer(IoKind transfer, const buf::RequestBuffers& data) noexcept {
    const auto start = Sector(parsed_.header.sector).to_offset();
    if (!start) return complete_error(beyond_end(parsed_.header.sector));
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
    if (!ranges) return complete_error(ranges.error());
    kind = range_kind;
    ranges_ = *ranges;
    // All are checked before the first starts.
    for (next_range_ = 0; next_range_ < ranges_.count;) {
      if (auto checked = take_next_range(); !checked) return complete_error(checked.error());
    }
    next_range_ = 0;
    start_next_range();
  }

  /// Moves on to the next range.
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
    if (auto next = take_next_range(); !next) return complete_error(next.error());
    start_checked();
  }

  void start_checked() noexcept {
    const virtio::FeatureBits negotiated = queue_->features();
    durability = device().write_durability(negotiated);
    granularity = BlockDevice::granularity(negotiated);
    if (auto checked = disk::check_io(device().disk(), *this); !checked) {
      return complete_error(checked.error());
    }
    owner_->channel_->start(*this);
  }

  void complete_id() noexcept { complete_query(device().id()); }

  void complete_lifetime() noexcept {
    const auto lifetime = owner_->disk_channel_->lifetime();
    if (!lifetime) return complete_error(lifetime.error());
    const vblk::Lifetime told{.pre_eol_info = lifetime->pre_eol_info,
                              .device_lifetime_est_typ_a = lifetime->estimate_type_a,
                              .device_lifetime_est_typ_b = lifetime->estimate_type_b};
    complete_query(std::as_bytes(std::span(&told, 1)));
  }

  /// Completes a query (GET_ID, GET_LIFETIME).
  void complete_query(std::span<const std::byte> bytes) noexcept {
    if (parsed_.writable_data.size() < bytes.size()) {
      return complete_error(
          Error::peer_fault("writable part too short for the reply", parsed_.writable_data.size()));
    }
    if (auto written = parsed_.writable_data.writer().write(bytes); !written) {
      return complete_error(written.error());
    }
    complete(vblk::Status::kOk, bytes.size());
  }

  [[nodiscard]] static Error beyond_end(std::uint64_t sector) noexcept {
    return Error::make(ErrorKind::kOutOfRange, "sector", sector);
  }

  void complete_error(const Error& error) noexcept {
    end_hold();
    log::rate_limited_warning(
        device().failure_log(), "{}: request failed: {} (type {}, sector {})", owner_->label_,
        error.to_string(), static_cast<std::uint32_t>(parsed_.header.type), parsed_.header.sector);
    complete(to_status(error), 0);
  }

  /// Writes the status and returns the chain. `data_written`: bytes before the status.
  void complete(vblk::Status status, std::uint64_t data_written) noexcept {
    count(status);
    virtio::DeviceQueue& queue = *queue_;
    if (const auto written = store_status(status); written) [[likely]] {
      // At most 4 GiB a chain, with 16 bytes of header.
      queue.complete(chain_, static_cast<std::uint32_t>(data_written + 1));
    } else {
      queue.break_on(chain_, written.error());
    }
    owner_->free_->push_front(*this);
  }

  /// Errors: peer fault (no status byte), memory fault, out of range.
  [[nodiscard]] Result<> store_status(vblk::Status status) const noexcept {
    if (!parsed_.status) {
      return fail(Error::peer_fault("request without a status byte", chain_.chain.head()));
    }
    return write_status(chain_.memory(), *parsed_.status, status);
  }

  using Clock = std::chrono::steady_clock;

  BlockQueue* owner_;
  virtio::DeviceQueue* queue_ = nullptr;
  virtio::PoppedChain chain_;
  ParsedRequest parsed_;
  ParsedRanges ranges_;
  std::size_t next_range_ = 0;
  Error failure_;  // of the last attempt
  std::uint32_t attempts_ = 0;
  bool is_held_ = false;
  bool must_fail_ = false;
  bool is_parked_ = false;
  std::uint64_t bytes_moved_ = 0;
  Clock::time_point begun_;  // of a timed request
};

BlockQueue::BlockQueue(const BlockDevice& device, std::unique_ptr<disk::Channel> channel,
                       std::size_t requests, FailurePolicy policy, std::string label)
    : device_(device),
      label_(label.empty() ? device.name() : std::move(label)),
      disk_channel_(std::move(channel)),
      channel_(disk_channel_.get()),
      policy_(std::move(policy)),
      free_(std::make_unique<FreeList>()) {
  GUESTIO_CHECK(policy_.on_error == OnError::kReport || policy_.timer, "a timer for held requests");
  // A server that is back serves held requests now, not at the end of their pauses.
  disk_channel_->on_available([this] { retry_held(); });
  for (std::size_t i = 0; i < requests; ++i) requests_.emplace_back(*this);
  for (Request& request : requests_) free_->push_front(request);
}

BlockQueue::~BlockQueue() {
  GUESTIO_CHECK(free_->size() == requests_.size(),
                "no request in flight on a queue that is destroyed");
  free_->clear();
}

task::Task<> BlockQueue::hold(Request& request) {
  co_await policy_.timer->sleep(FailurePolicy::retry_delay(request.attempts()),
                                stop_pauses_->token());
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

void BlockQueue::count_held(const Error& error) noexcept {
  ++held_;
  if (held_ != 1) return;
  log::rate_limited_warning(device_.failure_log(), "{}: requests held pending retry: {}", label_,
                            error.to_string());
}

void BlockQueue::count_hold_ended() noexcept {
  held_.set(held_ - 1);
  if (held_ != 0) return;
  log::rate_limited_warning(device_.failure_log(), "{}: no request is held any more", label_);
}

void BlockQueue::retry_held() noexcept {
  // Requests that fail again pause on the new source.
  const auto ended = std::exchange(stop_pauses_, std::make_unique<task::StopSource>());
  ended->request_stop();
}

void BlockQueue::fail_held() noexcept {
  for (Request& request : requests_) request.fail_on_resume();
  retry_held();
}

void BlockQueue::set_throttle(std::shared_ptr<disk::ThrottleGroup> group) {
  GUESTIO_CHECK(policy_.timer && !throttle_, "one throttle with a timer");
  throttle_ =
      std::make_unique<disk::ThrottleChannel>(*disk_channel_, *policy_.timer, std::move(group));
  on_limits_changed();
}

void BlockQueue::on_limits_changed() noexcept {
  if (!throttle_) return;
  throttle_->reconsider();
  if (throttle_->group().is_limited()) {
    channel_ = throttle_.get();
    return;
  }
  throttle_->when_empty([this] {
    if (!throttle_->group().is_limited()) channel_ = disk_channel_.get();
  });
}

void BlockQueue::open_throttle() noexcept {
  if (!throttle_) return;
  is_throttle_open_ = true;
  throttle_->let_through();
}

void BlockQueue::close_throttle() noexcept {
  if (std::exchange(is_throttle_open_, false)) throttle_->throttle_again();
}

void BlockQueue::drain() noexcept {
  is_draining_ = true;
  open_throttle();
  retry_held();
}

void BlockQueue::quiesce() noexcept {
  is_quiesced_ = true;
  open_throttle();
  // Ends their pauses, so that they are parked now.
  retry_held();
}

void BlockQueue::resume() noexcept {
  is_quiesced_ = false;
  close_throttle();
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
    const virtio::PoppedChain& popped) noexcept {
  const auto status = popped.chain.last_writable();
  if (!status || !write_status(popped.memory(), *status, vblk::Status::kIoError)) {
    return std::nullopt;
  }
  return 1;
}

void BlockQueue::process(virtio::DeviceQueue& queue) noexcept {
  is_draining_ = false;
  if (is_throttle_open_) [[unlikely]]
    close_throttle();
  // In batches: while the last chains of a batch are popped, the headers of the first arrive from
  // the cache of the driver's processor.
  std::array<Request*, kBatch> batch;  // not zeroed: most polls are empty
  bool has_more = true;
  while (has_more) {
    std::size_t count = 0;
    while (count < batch.size()) {
      has_more = !free_->empty() && queue.pop(free_->front().chain()) == virtio::PopResult::kChain;
      if (!has_more) break;
      Request& request = free_->front();
      free_->pop_front();
      prefetch_header(request.chain());
      batch[count++] = &request;
    }
    for (Request* const request : std::span(batch).first(count)) request->begin(queue);
  }
}

}  // namespace guestio::blk
