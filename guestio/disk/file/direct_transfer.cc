// SPDX-License-Identifier: MIT
#include "guestio/disk/file/direct_transfer.h"

#include <sys/uio.h>

#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/disk/file/file_channel.h"
#include "guestio/disk/file/transfer_entry.h"

namespace guestio::disk {

namespace {

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
  is_fixed_ = false;
  is_polled_ = channel_.polls_;
  if (channel_.calls_.wanted(io.length)) {
    ++channel_.direct_calls_;
    finish(call());
  } else if (is_polled_) {
    channel_.polled_->start(*this);
  } else {
    channel_.loop_.start(*this);
  }
  return true;
}

std::int32_t DirectTransfer::call() const noexcept {
  const bool is_timed = channel_.calls_.wants_time();
  const auto start = is_timed ? DirectCalls::Clock::now() : DirectCalls::Clock::time_point();
  const auto iovecs = buf::as_iovecs(locked_.segments());
  const auto count = static_cast<int>(iovecs.size());
  const auto offset = static_cast<off_t>(io_->offset.raw());
  const int fd = channel_.file_.fd();
  const ssize_t result = is_read() ? ::preadv2(fd, iovecs.data(), count, offset, rw_flags())
                                   : ::pwritev2(fd, iovecs.data(), count, offset, rw_flags());
  const int error = errno;
  if (is_timed) channel_.calls_.note(DirectCalls::Clock::now() - start, io_->length);
  return result < 0 ? -error : static_cast<std::int32_t>(result);
}

void DirectTransfer::prepare(io_uring_sqe& entry) noexcept {
  // The loop's tables mean nothing to the other ring.
  const auto piece =
      is_polled_ ? std::nullopt : find_piece(channel_.loop_.fixed_memory(), locked_.segments());
  is_fixed_ = piece.has_value();
  const TransferEntry transfer{
      .direction = is_read() ? Direction::kFromFile : Direction::kToFile,
      .file = is_polled_ ? uring::File(channel_.file_.fd()) : channel_.file_,
      .offset = io_->offset,
      .segments = locked_.segments(),
      .piece = piece,
      .rw_flags = rw_flags()};
  transfer.apply_to(entry);
}

void DirectTransfer::complete(std::int32_t result, std::uint32_t) noexcept {
  // Perhaps only the registration is at fault. As if nothing was moved: the long way does without
  // it when that is so.
  bool is_in_doubt = is_fixed_ && result == -EFAULT;
  if (is_polled_ && result == -EOPNOTSUPP) {
    channel_.stop_polling();
    is_in_doubt = true;
  }
  finish(is_in_doubt ? 0 : result);
}

void DirectTransfer::finish(std::int32_t result) noexcept {
  Io& io = *std::exchange(io_, nullptr);
  locked_ = {};
  FileChannel& channel = channel_;
  channel.idle_.push_front(*this);
  channel.finish_direct(io, result);
}

}  // namespace guestio::disk
