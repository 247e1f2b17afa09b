// SPDX-License-Identifier: MIT
#include "guestio/disk/file/fast_path.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/check.h"
#include "guestio/base/log.h"
#include "guestio/buf/segment_cursor.h"
#include "guestio/disk/file/bounce_reads.h"
#include "guestio/disk/file/errno_class.h"
#include "guestio/disk/file/transfer_entry.h"

namespace guestio::disk {

namespace {

// Requests in flight at once; more than these take the slow path.
constexpr std::size_t kDirectTransfers = 256;
// One call of a bounce read: stays in the cache, and is large for one call.
constexpr std::size_t kPartBytes = 65536;

/// Whether one operation can move these segments without bounce memory.
bool is_fit(std::span<const buf::IoBuffer> segments, const Io& io,
            const buf::DirectIoLimits& limits) noexcept {
  if (segments.size() > limits.max_segments || io.length > limits.max_bytes) return false;
  if (!is_aligned(io.offset.raw() | io.length, std::uint64_t{limits.block()})) return false;
  std::uintptr_t starts = 0;
  std::size_t lengths = 0;
  for (const buf::IoBuffer& segment : segments) {
    starts |= reinterpret_cast<std::uintptr_t>(segment.data);
    lengths |= segment.length;
  }
  return is_aligned(starts, std::uintptr_t{limits.memory_alignment}) &&
         is_aligned(lengths, limits.block());
}

}  // namespace

FastPath::FastPath(ChannelContext& context, SlowPath& slow_path,
                   std::unique_ptr<uring::IopollRing> iopoll_ring)
    : loop_(context.loop),
      file_(context.file),
      limits_(context.image.limits()),
      bounce_(*context.bounce),
      max_bounce_per_call_(context.max_bounce_per_call),
      bounces_reads_(context.image.bounces_reads()),
      is_polling_(iopoll_ring != nullptr),
      calls_(context.image.prefers_direct_calls()),
      iopoll_ring_(std::move(iopoll_ring)),
      context_(context),
      slow_path_(slow_path) {
  for (std::size_t i = 0; i < kDirectTransfers; ++i) transfers_.emplace_back(*this);
  for (DirectTransfer& transfer : transfers_) idle_.push_front(transfer);
}

FastPath::~FastPath() {
  GUESTIO_CHECK(idle_.size() == transfers_.size(), "no transfer in flight on a channel that ends");
  idle_.clear();
}

bool FastPath::try_start(Io& io) noexcept {
  if (idle_.empty()) return false;
  DirectTransfer& transfer = idle_.front();
  idle_.pop_front();
  if (transfer.try_start(io)) return true;
  idle_.push_front(transfer);
  return false;
}

void FastPath::finish(Io& io, std::int32_t result, bool was_bounced) noexcept {
  const bool is_read = io.kind == IoKind::kRead;
  const bool is_whole = result >= 0 && static_cast<std::uint64_t>(result) == io.length;
  // The page cache reports a lost write once, so a write with such a report is not retried.
  const bool is_flush_result = io.durability == Durability::kStable && !is_read &&
                               context_.image.is_cached() &&
                               (is_whole || may_report_data_loss(result));
  const bool met_shortage = !is_flush_result && is_shortage(result);
  if (met_shortage) {
    ++context_.shortages.met;
    context_.image.report_shortage(-result);
  }
  // The slow path continues short transfers, waits out shortages and bounces refused ones.
  if (!is_whole && !is_flush_result && (result >= 0 || met_shortage || result == -EINVAL)) {
    return slow_path_.start(io);
  }
  ++counters_.plans;
  if (was_bounced) {
    counters_.bounced.add(buf::BounceReason::kSlowCopy, io.length);
  } else {
    counters_.direct_bytes += io.length;
  }
  if (is_flush_result) return io.on_done(context_.image.check_flush(result));
  // The kernel may have written even if the read failed.
  const Result<> marked = is_read ? io.buffers.mark_written() : Result<>();
  io.on_done(is_whole ? marked : Result<>(fail(to_transfer_error(result, is_read))));
}

void FastPath::stop_polling() noexcept {
  if (std::exchange(is_polling_, false)) {
    log::warning(
        "{}: polled I/O (--iopoll) refused (EOPNOTSUPP): completions by interrupt from now on",
        context_.image.name());
  }
}

int FastPath::DirectTransfer::rw_flags() const noexcept {
  return is_read() ? 0 : to_rw_flags(io_->durability);
}

bool FastPath::DirectTransfer::try_start(Io& io) noexcept {
  const bool reads = io.kind == IoKind::kRead;
  auto locked =
      io.buffers.lock(reads ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
  // The slow path reports the error.
  if (!locked || !is_fit(locked->segments(), io, path_.limits_)) return false;
  locked_ = std::move(*locked);
  io_ = &io;
  is_registered_ = false;
  is_polled_ = path_.is_polling_;
  const bool is_call = path_.calls_.should_call(io.length);
  if (reads && path_.bounces_reads_) bounce_read(is_call);
  if (is_call) {
    ++path_.direct_calls_;
    finish(call());
  } else if (is_polled_) {
    path_.iopoll_ring_->start(*this);
  } else {
    path_.loop_.start(*this);
  }
  return true;
}

void FastPath::DirectTransfer::bounce_read(bool is_call) noexcept {
  if (!is_misaligned(locked_.segments(), io_->offset)) return;
  const std::uint64_t size =
      is_call ? std::min<std::uint64_t>(io_->length, kPartBytes) : io_->length;
  if (size > path_.max_bounce_per_call_) return;
  // A wait would cost more than the slow copy.
  if (auto granted = path_.bounce_.try_acquire(size)) bounce_ = std::move(*granted);
}

std::int32_t FastPath::DirectTransfer::call() noexcept {
  const bool is_timed = path_.calls_.should_time();
  const auto start = is_timed ? DirectCalls::Clock::now() : DirectCalls::Clock::time_point();
  const std::int32_t result = is_bounced() ? call_in_parts() : call_once();
  if (is_timed) path_.calls_.record(DirectCalls::Clock::now() - start, io_->length);
  return result;
}

std::int32_t FastPath::DirectTransfer::call_once() const noexcept {
  return transfer_by_call(is_read() ? Direction::kFromFile : Direction::kToFile, path_.file_.fd(),
                          locked_.segments(), io_->offset, rw_flags());
}

std::int32_t FastPath::DirectTransfer::call_in_parts() noexcept {
  buf::SegmentCursor cursor(locked_.segments());
  std::uint64_t done = 0;
  while (done < io_->length) {
    const auto part =
        bounce_.bytes().first(std::min<std::uint64_t>(bounce_.size(), io_->length - done));
    const auto offset = static_cast<off_t>(io_->offset.raw() + done);
    const ssize_t read = ::pread(path_.file_.fd(), part.data(), part.size(), offset);
    // Later parts end as a short transfer: the slow path meets the error again.
    if (read < 0 && done == 0) return -errno;
    if (read <= 0) break;
    const auto bytes = static_cast<std::size_t>(read);
    if (!cursor.write(part.first(bytes))) return -EFAULT;
    done += bytes;
    if (bytes < part.size()) break;
  }
  return static_cast<std::int32_t>(done);
}

void FastPath::DirectTransfer::prepare(io_uring_sqe& entry) noexcept {
  // The polled ring has no registered files and buffers.
  const auto buffer = is_polled_
                          ? std::nullopt
                          : find_registered_buffer(path_.loop_.registered_buffers(), segments());
  is_registered_ = buffer.has_value();
  const TransferEntry transfer{.direction = is_read() ? Direction::kFromFile : Direction::kToFile,
                               .file = is_polled_ ? uring::File(path_.file_.fd()) : path_.file_,
                               .offset = io_->offset,
                               .segments = segments(),
                               .registered = buffer,
                               .rw_flags = rw_flags()};
  transfer.apply_to(entry);
}

void FastPath::DirectTransfer::complete(std::int32_t result, std::uint32_t) noexcept {
  // EFAULT may come from the registration alone. Such a transfer ends as if nothing was moved: the
  // slow path repeats it, without the registration if need be.
  bool is_in_doubt = is_registered_ && result == -EFAULT;
  if (is_polled_ && result == -EOPNOTSUPP) {
    path_.stop_polling();
    is_in_doubt = true;
  }
  if (is_bounced() && result > 0) {
    const auto arrived = bounce_.bytes().first(static_cast<std::size_t>(result));
    if (!buf::SegmentCursor(locked_.segments()).write(arrived)) result = -EFAULT;
  }
  finish(is_in_doubt ? 0 : result);
}

void FastPath::DirectTransfer::finish(std::int32_t result) noexcept {
  Io& io = *std::exchange(io_, nullptr);
  const bool was_bounced = is_bounced();
  locked_ = {};
  bounce_ = {};
  FastPath& path = path_;
  path.idle_.push_front(*this);
  path.finish(io, result, was_bounced);
}

}  // namespace guestio::disk
