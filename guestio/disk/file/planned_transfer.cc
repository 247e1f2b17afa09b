// SPDX-License-Identifier: MIT
#include "guestio/disk/file/planned_transfer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/log.h"
#include "guestio/disk/file/errno_class.h"
#include "guestio/disk/guard/guarded_range.h"
#include "guestio/uring/awaitables.h"

namespace guestio::disk {

using buf::IoBuffer;
using buf::SegmentCursor;
using buf::TransferPlan;

namespace {

/// Drops the first `bytes` bytes of a list.
std::span<IoBuffer> drop_front(std::span<IoBuffer> segments, std::size_t bytes) noexcept {
  while (!segments.empty() && bytes >= segments.front().length) {
    bytes -= segments.front().length;
    segments = segments.subspan(1);
  }
  if (bytes != 0) {
    IoBuffer& first = segments.front();
    first = first.subsegment(bytes, first.length - bytes);
  }
  return segments;
}

}  // namespace

task::Task<Result<>> PlannedTransfer::transfer(Io& io) {
  if (io.length == 0) co_return Result<>();
  const bool is_read = io.kind == IoKind::kRead;
  const auto locked =
      io.buffers.lock(is_read ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
  if (!locked) co_return fail(locked.error());
  const Window window{SegmentCursor(locked->segments()), io.offset, io.length};
  const Direction direction = is_read ? Direction::kFromFile : Direction::kToFile;
  const int rw_flags = is_read ? 0 : to_rw_flags(io.durability);
  const auto moved = co_await transfer_window(direction, window, rw_flags);
  if (!is_read) co_return moved;
  // The kernel may have written even if the read failed.
  const auto marked = io.buffers.mark_written();
  co_return moved ? marked : moved;
}

task::Task<Result<>> PlannedTransfer::transfer_window(Direction direction, Window window,
                                                      int rw_flags) {
  while (window.length != 0) {
    const TransferPlan plan(
        window, context_.image.limits(),
        {.max_bounce = context_.max_bounce_per_call, .policy = context_.policy});
    const auto executed = co_await execute(direction, plan, window, rw_flags);
    if (!executed) {
      const bool was_refused =
          executed.error().host_errno == EINVAL && plan.bounced_bytes() < plan.file_bytes();
      if (!was_refused) co_return executed;
      // The file's limits were wrong. Bounce memory is in whole pages, which any file accepts.
      if (context_.policy != TransferPlan::Policy::kBounceAll) {
        log::warning(
            "{}: direct I/O within the image's limits refused (EINVAL): all data is bounced from "
            "now on",
            context_.image.name());
      }
      context_.policy = TransferPlan::Policy::kBounceAll;
      continue;
    }
    window.cursor.advance(plan.window_bytes());
    window.offset = window.offset.plus_unchecked(plan.window_bytes());
    window.length -= plan.window_bytes();
  }
  co_return Result<>();
}

task::Task<Result<>> PlannedTransfer::execute(Direction direction, const TransferPlan& plan,
                                              const Window& window, int rw_flags) {
  plan.count(context_.counters);
  buf::TrackedBounceBuffer bounce;
  if (plan.bounce_size() != 0) {
    auto granted = co_await acquire_bounce(plan);
    if (!granted) co_return fail(granted.error());
    bounce = std::move(*granted);
    context_.registered_bounce.cover(bounce);
  }
  GuardedRange guarded(
      context_.image.block_guard(), context_.loop, plan.file_offset(), plan.file_bytes(),
      plan.has_padding() ? BlockGuard::Kind::kExclusive : BlockGuard::Kind::kShared);
  if (direction == Direction::kToFile) {
    if (context_.needs_guard()) co_await guarded.claim();
    if (plan.has_padding()) {
      const auto filled = co_await read_padding(plan, bounce.bytes());
      if (!filled) co_return filled;
    }
    if (auto copied = plan.copy_in(window.cursor, bounce.bytes()); !copied) co_return copied;
  }
  auto segments = plan.segments(bounce.bytes());
  const std::size_t needed = direction == Direction::kFromFile
                                 ? plan.file_bytes() - plan.tail_padding()
                                 : plan.file_bytes();
  const std::span<IoBuffer> all(segments.data(), segments.size());
  const auto moved =
      co_await transfer_segments(direction, all, plan.file_offset(), needed, rw_flags);
  if (!moved || direction == Direction::kToFile) co_return moved;
  co_return plan.copy_out(window.cursor, bounce.bytes(), needed);
}

task::Task<Result<buf::TrackedBounceBuffer>> PlannedTransfer::acquire_bounce(
    const TransferPlan& plan) {
  buf::AcquireOptions options;
  options.alignment = plan.bounce_alignment();
  ShortageRetry retry(context_.shortages);
  while (true) {
    // Named: g++ 12 copies a temporary awaitable once more (4 ns of 18).
    auto acquiring = context_.bounce->acquire(plan.bounce_size(), options);
    auto granted = co_await acquiring;
    if (granted || !context_.should_retry(retry, -granted.error().host_errno)) co_return granted;
    (void)co_await uring::sleep(context_.loop, retry.pause());
  }
}

task::Task<Result<>> PlannedTransfer::read_padding(const TransferPlan& plan,
                                                   std::span<std::byte> bounce) {
  // Padding is in the first block, the last, or both; each is the end of a bounced piece.
  const std::size_t block = context_.image.limits().block();
  struct Block {
    bool is_wanted;
    FileOffset offset;
    std::size_t in_bounce;
  };
  const bool is_one_block = plan.file_bytes() == block;
  const std::array blocks = {Block{plan.head_padding() != 0 || is_one_block, plan.file_offset(), 0},
                             Block{plan.tail_padding() != 0 && !is_one_block,
                                   plan.file_offset().plus_unchecked(plan.file_bytes() - block),
                                   plan.bounce_size() - block}};
  for (const Block& wanted : blocks) {
    if (!wanted.is_wanted) continue;
    IoBuffer segment{bounce.subspan(wanted.in_bounce, block).data(), block};
    const std::span<IoBuffer> segments(&segment, 1);
    const auto read =
        co_await transfer_segments(Direction::kFromFile, segments, wanted.offset, block, 0);
    if (!read) co_return read;
  }
  co_return Result<>();
}

task::Task<Result<>> PlannedTransfer::transfer_segments(Direction direction,
                                                        std::span<IoBuffer> segments,
                                                        FileOffset offset, std::size_t needed,
                                                        int rw_flags) {
  const bool is_read = direction == Direction::kFromFile;
  // A stable write through the page cache has the result of a flush.
  const bool is_flush = rw_flags != 0 && context_.image.is_cached();
  ShortageRetry retry(context_.shortages);
  std::size_t done = 0;
  bool may_be_registered = true;
  while (true) {
    std::int32_t result = 0;
    if (retry.is_call()) {
      ++context_.direct_calls;
      result = transfer_by_call(direction, context_.file.fd(), segments, offset, rw_flags);
    } else {
      const auto buffer = may_be_registered
                              ? find_registered_buffer(context_.loop.registered_buffers(), segments)
                              : std::optional<std::uint16_t>();
      io_uring_sqe entry{};
      TransferEntry{direction, context_.file, offset, segments, buffer, rw_flags}.apply_to(entry);
      uring::RingAwaitable moving(context_.loop, entry, {});
      result = co_await moving;
      if (result == -EFAULT && buffer) {
        // The cause may be the registration alone.
        may_be_registered = false;
        continue;
      }
    }
    if (is_flush && may_report_data_loss(result)) co_return context_.image.check_flush(result);
    if (context_.should_retry(retry, result)) {
      (void)co_await uring::sleep(context_.loop, retry.pause());
      continue;
    }
    if (result < 0) co_return fail(to_transfer_error(result, is_read));
    const auto moved = static_cast<std::size_t>(result);
    if (done + moved >= needed) co_return is_flush ? context_.image.check_flush(0) : Result<>();
    // Continue at the last block boundary of the file.
    const std::size_t whole = align_down(moved, std::size_t{context_.image.limits().block()});
    if (whole == 0) co_return fail(ErrorKind::kShortTransfer, "the image ends early", done, needed);
    segments = drop_front(segments, whole);
    offset = offset.plus_unchecked(whole);
    done += whole;
    retry.reset();
  }
}

}  // namespace guestio::disk
