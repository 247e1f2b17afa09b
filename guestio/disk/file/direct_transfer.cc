// SPDX-License-Identifier: MIT
#include "guestio/disk/file/direct_transfer.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/buf/segment_cursor.h"
#include "guestio/disk/file/file_channel.h"
#include "guestio/disk/file/transfer_entry.h"

namespace guestio::disk {

namespace {

// What is read before it is copied on: it stays in the cache, and is much for one call.
constexpr std::size_t kPartBytes = 65536;

/// Whether one call takes these segments as they lie.
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

int DirectTransfer::rw_flags() const noexcept {
  return !is_read() && io_->durability == Durability::kStable ? RWF_DSYNC : 0;
}

bool DirectTransfer::try_start(Io& io) noexcept {
  const bool reads = io.kind == IoKind::kRead;
  auto locked =
      io.buffers.lock(reads ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
  // The long way knows what to say.
  if (!locked || !is_fit(locked->segments(), io, channel_.disk_.limits())) return false;
  locked_ = std::move(*locked);
  io_ = &io;
  is_registered_ = false;
  is_polled_ = channel_.polls_;
  const bool is_call = channel_.calls_.wanted(io.length);
  if (reads && channel_.bounces_reads_) bounce_read(is_call);
  if (is_call) {
    ++channel_.direct_calls_;
    finish(call());
  } else if (is_polled_) {
    channel_.polled_->start(*this);
  } else {
    channel_.loop_.start(*this);
  }
  return true;
}

void DirectTransfer::bounce_read(bool is_call) noexcept {
  if (!is_misaligned(locked_.segments(), io_->offset)) return;
  const std::uint64_t size =
      is_call ? std::min<std::uint64_t>(io_->length, kPartBytes) : io_->length;
  if (size > channel_.bounce_per_call_) return;
  // Not worth waiting for.
  if (auto granted = channel_.bounce_->try_acquire(size)) bounce_ = std::move(*granted);
}

std::int32_t DirectTransfer::call() noexcept {
  const bool is_timed = channel_.calls_.wants_time();
  const auto start = is_timed ? DirectCalls::Clock::now() : DirectCalls::Clock::time_point();
  const std::int32_t result = is_bounced() ? read_in_parts() : call_once();
  if (is_timed) channel_.calls_.note(DirectCalls::Clock::now() - start, io_->length);
  return result;
}

std::int32_t DirectTransfer::call_once() const noexcept {
  const auto iovecs = buf::as_iovecs(locked_.segments());
  const auto count = static_cast<int>(iovecs.size());
  const auto offset = static_cast<off_t>(io_->offset.raw());
  const int fd = channel_.file_.fd();
  const ssize_t result = is_read() ? ::preadv2(fd, iovecs.data(), count, offset, rw_flags())
                                   : ::pwritev2(fd, iovecs.data(), count, offset, rw_flags());
  return result < 0 ? -errno : static_cast<std::int32_t>(result);
}

std::int32_t DirectTransfer::read_in_parts() noexcept {
  buf::SegmentCursor cursor(locked_.segments());
  std::uint64_t done = 0;
  while (done < io_->length) {
    const auto part =
        bounce_.bytes().first(std::min<std::uint64_t>(bounce_.size(), io_->length - done));
    const auto offset = static_cast<off_t>(io_->offset.raw() + done);
    const ssize_t read = ::pread(channel_.file_.fd(), part.data(), part.size(), offset);
    // After a part that came, a short transfer: who goes on with it finds the error again.
    if (read < 0 && done == 0) return -errno;
    if (read <= 0) break;
    const auto bytes = static_cast<std::size_t>(read);
    if (!cursor.write(part.first(bytes))) return -EFAULT;
    done += bytes;
    if (bytes < part.size()) break;
  }
  return static_cast<std::int32_t>(done);
}

void DirectTransfer::prepare(io_uring_sqe& entry) noexcept {
  // The loop's tables mean nothing to the other ring.
  const auto piece = is_polled_
                         ? std::nullopt
                         : find_registered_buffer(channel_.loop_.registered_buffers(), segments());
  is_registered_ = piece.has_value();
  const TransferEntry transfer{
      .direction = is_read() ? Direction::kFromFile : Direction::kToFile,
      .file = is_polled_ ? uring::File(channel_.file_.fd()) : channel_.file_,
      .offset = io_->offset,
      .segments = segments(),
      .piece = piece,
      .rw_flags = rw_flags()};
  transfer.apply_to(entry);
}

void DirectTransfer::complete(std::int32_t result, std::uint32_t) noexcept {
  // Perhaps only the registration is at fault. As if nothing was moved: the long way does without
  // it when that is so.
  bool is_in_doubt = is_registered_ && result == -EFAULT;
  if (is_polled_ && result == -EOPNOTSUPP) {
    channel_.stop_polling();
    is_in_doubt = true;
  }
  if (is_bounced() && result > 0) {
    const auto arrived = bounce_.bytes().first(static_cast<std::size_t>(result));
    if (!buf::SegmentCursor(locked_.segments()).write(arrived)) result = -EFAULT;
  }
  finish(is_in_doubt ? 0 : result);
}

void DirectTransfer::finish(std::int32_t result) noexcept {
  Io& io = *std::exchange(io_, nullptr);
  const bool was_bounced = is_bounced();
  locked_ = {};
  bounce_ = {};
  FileChannel& channel = channel_;
  channel.idle_.push_front(*this);
  channel.finish_direct(io, result, was_bounced);
}

}  // namespace guestio::disk
