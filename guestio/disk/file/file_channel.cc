// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_channel.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "guestio/base/check.h"
#include "guestio/base/log.h"
#include "guestio/disk/file/errno_class.h"
#include "guestio/disk/file/guarded_range.h"
#include "guestio/disk/file/lifetime.h"
#include "guestio/uring/awaitables.h"

namespace guestio::disk {

using buf::IoBuffer;
using buf::SegmentCursor;
using buf::TransferPlan;

namespace {

// Places on the short way; more requests at once than these go the long way.
constexpr std::size_t kDirectTransfers = 256;
constexpr std::size_t kZeroBytes = 65536;
alignas(kPageSize) constexpr std::array<std::byte, kZeroBytes> kZeroes{};

/// What a failed read or write of the image means.
Error to_error(std::int32_t result, bool is_read) noexcept {
  if (result == -EFAULT) return Error::make(ErrorKind::kMemoryFault, "guest memory of a request");
  return Error::host(-result, is_read ? "read the image" : "write the image");
}

int to_rw_flags(Durability durability) noexcept {
  return durability == Durability::kStable ? RWF_DSYNC : 0;
}

/// By the calling thread.
std::int32_t move_by_call(Direction direction, int fd, std::span<const IoBuffer> segments,
                          FileOffset offset, int rw_flags) noexcept {
  const auto iovecs = buf::as_iovecs(segments);
  const auto count = static_cast<int>(iovecs.size());
  const auto at = static_cast<off_t>(offset.raw());
  const ssize_t result = direction == Direction::kFromFile
                             ? ::preadv2(fd, iovecs.data(), count, at, rw_flags)
                             : ::pwritev2(fd, iovecs.data(), count, at, rw_flags);
  return result < 0 ? -errno : static_cast<std::int32_t>(result);
}

std::int32_t allocate_by_call(int fd, int mode, FileOffset offset, std::uint64_t length) noexcept {
  const int result =
      ::fallocate(fd, mode, static_cast<off_t>(offset.raw()), static_cast<off_t>(length));
  return result < 0 ? -errno : 0;
}

struct AlignedRange {
  FileOffset offset;
  std::uint64_t length;
};

/// The whole blocks that lie inside a range.
AlignedRange align_inward(FileOffset offset, std::uint64_t length, ByteCount block) noexcept {
  const std::uint64_t start = align_up(offset.raw(), block.raw());
  const std::uint64_t end = align_down(offset.raw() + length, block.raw());
  return {FileOffset(start), end > start ? end - start : 0};
}

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

Result<std::unique_ptr<FileChannel>> FileChannel::create(FileDisk& disk, uring::Loop& loop,
                                                         ByteCount bounce_limit) {
  auto bounce = disk.bounce_.open_account(
      buf::BounceShare::of(bounce_limit),
      [&loop](buf::BounceAccount& account) { loop.post([&account] { account.serve(); }); });
  if (!bounce) return fail(bounce.error());
  std::unique_ptr<uring::IopollRing> polled;
  if (disk.completion() == Completion::kPolled) {
    auto made = uring::IopollRing::create(loop);
    if (!made) return fail(made.error());
    polled = std::move(*made);
  }
  std::unique_ptr<FileChannel> self(
      new FileChannel(disk, loop, std::move(*bounce), loop.register_file(disk.fd_.get())));
  self->polls_ = polled != nullptr;
  self->polled_ = std::move(polled);
  return self;
}

FileChannel::FileChannel(FileDisk& disk, uring::Loop& loop, buf::OpenBounceAccount bounce,
                         uring::File file)
    : disk_(disk),
      loop_(loop),
      bounce_(std::move(bounce)),
      registered_bounce_(loop.registered_buffers(), *bounce_, disk.bounce_registration_,
                         disk.name()),
      file_(file),
      bounce_per_call_(std::clamp(bounce_->share().limit() / 4, std::uint64_t{2 * kPageSize},
                                  std::uint64_t{buf::BouncePool::kSlabBytes})),
      calls_(disk.calls_pay_),
      bounces_reads_(disk.bounces_reads_),
      secure_erase_(loop, disk.fd_.get(), shortages_) {
  GUESTIO_CHECK(bounce_per_call_ <= bounce_->max_grant(), "bounce memory for at least two pages");
  for (std::size_t i = 0; i < kDirectTransfers; ++i) transfers_.emplace_back(*this);
  for (DirectTransfer& transfer : transfers_) idle_.push_front(transfer);
}

FileChannel::~FileChannel() {
  GUESTIO_CHECK(idle_.size() == transfers_.size(), "no transfer in flight on a channel that ends");
  idle_.clear();
  loop_.unregister_file(file_);
}

ChannelStatistics FileChannel::statistics() const noexcept {
  return {.transfers = counters_,
          .bounce = bounce_->statistics(),
          .direct_calls = direct_calls_,
          .shortages = shortages_.met};
}

Result<Lifetime> FileChannel::lifetime() {
  if (disk_.lifetime_) {
    if (const auto known = read_lifetime(*disk_.lifetime_)) return *known;
  }
  return Channel::lifetime();
}

void FileChannel::start(Io& io) noexcept {
  if (auto checked = check_io(disk_.info(), io); !checked) return io.on_done(checked);
  if (io.granularity == Granularity::kSectors) serves_sectors_ = true;
  if (!try_short_way(io)) requests_.spawn(serve(io));
  submit_early();
}

bool FileChannel::try_short_way(Io& io) noexcept {
  const bool is_transfer = io.kind == IoKind::kRead || io.kind == IoKind::kWrite;
  const bool may_exclude_others = io.kind == IoKind::kWrite && needs_guard();
  if (!is_transfer || may_exclude_others || io.length == 0 || idle_.empty() ||
      policy_ != TransferPlan::Policy::kDirectWherePossible) {
    return false;
  }
  DirectTransfer& transfer = idle_.front();
  idle_.pop_front();
  if (transfer.try_start(io)) return true;
  idle_.push_front(transfer);
  return false;
}

void FileChannel::finish_direct(Io& io, std::int32_t result, bool was_bounced) noexcept {
  const bool is_read = io.kind == IoKind::kRead;
  const bool is_whole = result >= 0 && static_cast<std::uint64_t>(result) == io.length;
  // A short transfer is gone on with, a shortage waited out, a refusal bounced.
  // What a write through the page cache has said is never said again, so that is not tried again.
  const bool is_judged = io.durability == Durability::kStable && !is_read && disk_.is_cached() &&
                         (is_whole || may_report_data_loss(result));
  const bool is_short_of_something = !is_judged && is_shortage(result);
  if (is_short_of_something) {
    ++shortages_.met;
    disk_.report_shortage(-result);
  }
  if (!is_whole && !is_judged && (result >= 0 || is_short_of_something || result == -EINVAL)) {
    return requests_.spawn(serve(io));
  }
  ++counters_.plans;
  if (was_bounced) {
    counters_.bounced.add(buf::BounceReason::kSlowCopy, io.length);
  } else {
    counters_.direct_bytes += io.length;
  }
  if (is_judged) return io.on_done(disk_.check_flush(result));
  // Whatever became of it, the kernel may have written.
  const Result<> marked = is_read ? io.buffers.mark_written() : Result<>();
  io.on_done(is_whole ? marked : Result<>(fail(to_error(result, is_read))));
}

void FileChannel::stop_polling() noexcept {
  if (std::exchange(polls_, false)) {
    log::warning(
        "{}: the image refuses I/O without interrupts (--iopoll): does without from now on",
        disk_.name());
  }
}

/// A disk that has nothing to do is not left waiting while a long batch is prepared for it: what is
/// ready goes to it when it is as much as the disk has. So an idle disk gets a batch in pieces that
/// double, and a busy one all at once.
void FileChannel::submit_early() noexcept {
  constexpr unsigned kWorthACall = 2;
  const std::size_t ready = loop_.unsubmitted();
  if (ready >= kWorthACall && 2 * ready >= loop_.in_flight()) loop_.submit();
}

task::Task<> FileChannel::serve(Io& io) {
  Result<> result;
  switch (io.kind) {
    case IoKind::kRead:
    case IoKind::kWrite: {
      auto transferring = transfer(io);
      result = co_await std::move(transferring);
      break;
    }
    case IoKind::kFlush: {
      auto flushing = flush();
      result = co_await std::move(flushing);
      break;
    }
    case IoKind::kDiscard: {
      auto discarding = discard(io);
      result = co_await std::move(discarding);
      break;
    }
    case IoKind::kWriteZeroes: {
      auto zeroing = write_zeroes(io);
      result = co_await std::move(zeroing);
      break;
    }
    case IoKind::kSecureErase: {
      auto erasing = secure_erase(io);
      result = co_await std::move(erasing);
      break;
    }
  }
  io.on_done(result);
}

task::Task<Result<>> FileChannel::transfer(Io& io) {
  if (io.length == 0) co_return Result<>();
  const bool is_read = io.kind == IoKind::kRead;
  const auto locked =
      io.buffers.lock(is_read ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
  if (!locked) co_return fail(locked.error());
  const Window window{SegmentCursor(locked->segments()), io.offset, io.length};
  auto moving = move_window(is_read ? Direction::kFromFile : Direction::kToFile, window,
                            is_read ? 0 : to_rw_flags(io.durability));
  const auto moved = co_await std::move(moving);
  if (!is_read) co_return moved;
  // Whatever became of it, the kernel may have written.
  const auto marked = io.buffers.mark_written();
  co_return moved ? marked : moved;
}

task::Task<Result<>> FileChannel::move_window(Direction direction, Window window, int rw_flags) {
  while (window.length != 0) {
    const TransferPlan plan(window, disk_.limits(),
                            {.max_bounce = bounce_per_call_, .policy = policy_});
    auto executing = execute(direction, plan, window, rw_flags);
    const auto executed = co_await std::move(executing);
    if (!executed) {
      const bool was_refused =
          executed.error().host_errno == EINVAL && plan.bounced_bytes() < plan.file_bytes();
      if (!was_refused) co_return executed;
      // The file takes less than it said. Bounce memory lies in whole pages, which fits any file.
      if (policy_ != TransferPlan::Policy::kBounceAll) {
        log::warning(
            "{}: the image refuses direct I/O that its limits allow: all data is copied from now "
            "on",
            disk_.name());
      }
      policy_ = TransferPlan::Policy::kBounceAll;
      continue;
    }
    window.cursor.advance(plan.window_bytes());
    window.offset = window.offset.plus_unchecked(plan.window_bytes());
    window.length -= plan.window_bytes();
  }
  co_return Result<>();
}

task::Task<Result<>> FileChannel::execute(Direction direction, const TransferPlan& plan,
                                          const Window& window, int rw_flags) {
  plan.count(counters_);
  buf::TrackedBounceBuffer bounce;
  if (plan.bounce_size() != 0) {
    auto acquiring = acquire_bounce(plan);
    auto granted = co_await std::move(acquiring);
    if (!granted) co_return fail(granted.error());
    bounce = std::move(*granted);
    registered_bounce_.cover(bounce);
  }
  GuardedRange guarded(
      disk_.block_guard_, loop_, plan.file_offset(), plan.file_bytes(),
      plan.has_padding() ? BlockGuard::Kind::kPartOfBlocks : BlockGuard::Kind::kWholeBlocks);
  if (direction == Direction::kToFile) {
    if (needs_guard()) co_await guarded.claim();
    if (plan.has_padding()) {
      auto filling = fill_padding(plan, bounce.bytes());
      const auto filled = co_await std::move(filling);
      if (!filled) co_return filled;
    }
    if (auto copied = plan.copy_in(window.cursor, bounce.bytes()); !copied) co_return copied;
  }
  auto segments = plan.segments(bounce.bytes());
  const std::size_t needed = direction == Direction::kFromFile
                                 ? plan.file_bytes() - plan.tail_padding()
                                 : plan.file_bytes();
  auto moving = move_segments(direction, std::span(segments.data(), segments.size()),
                              plan.file_offset(), needed, rw_flags);
  const auto moved = co_await std::move(moving);
  if (!moved || direction == Direction::kToFile) co_return moved;
  co_return plan.copy_out(window.cursor, bounce.bytes(), needed);
}

task::Task<Result<buf::TrackedBounceBuffer>> FileChannel::acquire_bounce(const TransferPlan& plan) {
  buf::AcquireOptions options;
  options.alignment = plan.bounce_alignment();
  ShortageRetry retry(shortages_);
  while (true) {
    auto acquiring = bounce_->acquire(plan.bounce_size(), options);
    auto granted = co_await acquiring;
    if (granted || !should_retry(retry, -granted.error().host_errno)) co_return granted;
    (void)co_await uring::sleep(loop_, retry.pause());
  }
}

bool FileChannel::should_retry(ShortageRetry& retry, std::int32_t result) noexcept {
  if (!is_shortage(result)) return false;
  disk_.report_shortage(-result);
  return retry.note();
}

task::Task<Result<>> FileChannel::fill_padding(const TransferPlan& plan,
                                               std::span<std::byte> bounce) {
  // Padding lies in the first block, the last, or both; each is the end of a bounced piece.
  const std::size_t block = disk_.limits().block();
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
    auto reading =
        move_segments(Direction::kFromFile, std::span(&segment, 1), wanted.offset, block, 0);
    const auto read = co_await std::move(reading);
    if (!read) co_return read;
  }
  co_return Result<>();
}

task::Task<Result<>> FileChannel::move_segments(Direction direction, std::span<IoBuffer> segments,
                                                FileOffset offset, std::size_t needed,
                                                int rw_flags) {
  const bool is_read = direction == Direction::kFromFile;
  // A write that flushes the page cache is told what a flush is told.
  const bool is_judged = rw_flags != 0 && disk_.is_cached();
  ShortageRetry retry(shortages_);
  std::size_t done = 0;
  bool may_be_registered = true;
  while (true) {
    std::int32_t result = 0;
    if (retry.is_call()) {
      ++direct_calls_;
      result = move_by_call(direction, file_.fd(), segments, offset, rw_flags);
    } else {
      const auto piece = may_be_registered
                             ? find_registered_buffer(loop_.registered_buffers(), segments)
                             : std::optional<std::uint16_t>();
      io_uring_sqe entry{};
      TransferEntry{direction, file_, offset, segments, piece, rw_flags}.apply_to(entry);
      uring::RingAwaitable moving(loop_, entry, {});
      result = co_await moving;
      if (result == -EFAULT && piece) {
        // Perhaps only the registration is at fault.
        may_be_registered = false;
        continue;
      }
    }
    if (is_judged && may_report_data_loss(result)) co_return disk_.check_flush(result);
    if (should_retry(retry, result)) {
      (void)co_await uring::sleep(loop_, retry.pause());
      continue;
    }
    if (result < 0) co_return fail(to_error(result, is_read));
    const auto moved = static_cast<std::size_t>(result);
    if (done + moved >= needed) co_return is_judged ? disk_.check_flush(0) : Result<>();
    // Go on where it stopped, at a block the file can start from.
    const std::size_t whole = align_down(moved, std::size_t{disk_.limits().block()});
    if (whole == 0) co_return fail(ErrorKind::kShortTransfer, "the image ends early", done, needed);
    segments = drop_front(segments, whole);
    offset = offset.plus_unchecked(whole);
    done += whole;
    retry.start_again();
  }
}

task::Task<Result<>> FileChannel::flush() {
  task::WaitQueue& round = flush_waiters_[next_round_];
  if (!std::exchange(is_flushing_, true)) requests_.spawn(flush_in_rounds());
  (void)co_await round.wait();
  co_return flush_result_;
}

task::Task<> FileChannel::flush_in_rounds() {
  do {
    task::WaitQueue& covered = flush_waiters_[next_round_];
    next_round_ ^= 1U;  // what is asked for from here on is not covered by this one
    auto flushing = flush_once();
    const std::int32_t result = co_await std::move(flushing);
    flush_result_ = disk_.check_flush(result);
    covered.wake_all();
  } while (!flush_waiters_[next_round_].is_empty());
  is_flushing_ = false;
}

task::Task<std::int32_t> FileChannel::flush_once() {
  ShortageRetry retry(shortages_);
  while (true) {
    std::int32_t result = 0;
    if (retry.is_call()) {
      ++direct_calls_;
      result = disk_.flush_by_call();
    } else {
      result = co_await uring::fsync(loop_, file_, uring::SyncKind::kData);
    }
    if (disk_.is_cached()) {
      // The page cache tells of what it could not write only once, and another answer would hide
      // it. What never began is asked for where nothing was told yet.
      if (result != -ECANCELED || !should_retry(retry, result)) co_return result;
      ++direct_calls_;
      co_return disk_.flush_by_call();
    }
    if (!should_retry(retry, result)) co_return result;
    (void)co_await uring::sleep(loop_, retry.pause());
  }
}

task::Task<Result<>> FileChannel::allocate(int mode, FileOffset offset, std::uint64_t length) {
  const int all_modes = mode | FALLOC_FL_KEEP_SIZE;
  ShortageRetry retry(shortages_);
  while (true) {
    std::int32_t result = 0;
    if (retry.is_call()) {
      ++direct_calls_;
      result = allocate_by_call(file_.fd(), all_modes, offset, length);
    } else {
      result = co_await uring::fallocate(loop_, file_, all_modes, offset, ByteCount(length));
    }
    // Before the shortages: what is in use at the moment can be done without.
    if (is_unsupported(result)) co_return fail(ErrorKind::kUnsupported, "fallocate of the image");
    if (should_retry(retry, result)) {
      (void)co_await uring::sleep(loop_, retry.pause());
      continue;
    }
    if (result < 0) co_return fail(Error::host(-result, "discard or zero part of the image"));
    co_return Result<>();
  }
}

task::Task<Result<>> FileChannel::discard(Io& io) {
  // What is less than a block of a device is kept: a discard is a hint.
  const AlignedRange inner = align_inward(io.offset, io.length, disk_.facts_.range_alignment);
  if (inner.length == 0) co_return Result<>();
  GuardedRange guarded(disk_.block_guard_, loop_, inner.offset, inner.length,
                       BlockGuard::Kind::kPartOfBlocks);
  if (needs_guard()) co_await guarded.claim();
  auto allocating = allocate(FALLOC_FL_PUNCH_HOLE, inner.offset, inner.length);
  const auto discarded = co_await std::move(allocating);
  // What cannot do it, now or ever, keeps its bytes, and that is allowed as well.
  if (!discarded && discarded.error().kind != ErrorKind::kUnsupported) co_return discarded;
  if (io.durability != Durability::kStable) co_return Result<>();
  auto flushing = flush();
  co_return co_await std::move(flushing);
}

task::Task<Result<>> FileChannel::write_zeroes(Io& io) {
  // The ends that are less than a block of a device are written; what is between them need not be.
  const AlignedRange inner = align_inward(io.offset, io.length, disk_.facts_.range_alignment);
  const int rw_flags = to_rw_flags(io.durability);
  const std::uint64_t head = inner.length == 0 ? io.length : inner.offset.offset_from(io.offset);
  const std::uint64_t tail = io.length - head - inner.length;
  auto writing_head = write_zero_bytes(io.offset, head, rw_flags);
  auto zeroed = co_await std::move(writing_head);
  if (zeroed && inner.length != 0) {
    auto zeroing = zero_aligned(inner.offset, inner.length, io.unmap, rw_flags);
    zeroed = co_await std::move(zeroing);
  }
  if (zeroed) {
    auto writing_tail =
        write_zero_bytes(io.offset.plus_unchecked(head + inner.length), tail, rw_flags);
    zeroed = co_await std::move(writing_tail);
  }
  if (!zeroed || io.durability != Durability::kStable) co_return zeroed;
  auto flushing = flush();
  co_return co_await std::move(flushing);
}

task::Task<Result<>> FileChannel::secure_erase(Io& io) {
  GuardedRange guarded(disk_.block_guard_, loop_, io.offset, io.length,
                       BlockGuard::Kind::kWholeBlocks);
  if (needs_guard()) co_await guarded.claim();
  auto erasing = secure_erase_.erase(io.offset, io.length);
  const auto erased = co_await std::move(erasing);
  if (!erased || io.durability != Durability::kStable) co_return erased;
  auto flushing = flush();
  co_return co_await std::move(flushing);
}

task::Task<Result<>> FileChannel::zero_aligned(FileOffset offset, std::uint64_t length, Unmap unmap,
                                               int rw_flags) {
  Result<> zeroed = fail(ErrorKind::kUnsupported, "zero part of the image");
  {
    GuardedRange guarded(disk_.block_guard_, loop_, offset, length,
                         BlockGuard::Kind::kPartOfBlocks);
    if (needs_guard()) co_await guarded.claim();
    if (unmap == Unmap::kAllowed) {
      auto punching = allocate(FALLOC_FL_PUNCH_HOLE, offset, length);
      zeroed = co_await std::move(punching);
    }
    if (!zeroed && zeroed.error().kind == ErrorKind::kUnsupported) {
      auto zeroing = allocate(FALLOC_FL_ZERO_RANGE, offset, length);
      zeroed = co_await std::move(zeroing);
    }
  }
  if (zeroed || zeroed.error().kind != ErrorKind::kUnsupported) co_return zeroed;
  auto writing = write_zero_bytes(offset, length, rw_flags);
  co_return co_await std::move(writing);
}

task::Task<Result<>> FileChannel::write_zero_bytes(FileOffset offset, std::uint64_t length,
                                                   int rw_flags) {
  // Only ever read from: the transfer is to the file.
  const IoBuffer zeroes{const_cast<std::byte*>(kZeroes.data()), kZeroes.size()};
  std::array<IoBuffer, 16> segments;
  segments.fill(zeroes);
  while (length != 0) {
    const std::uint64_t part = std::min<std::uint64_t>(length, segments.size() * kZeroBytes);
    auto moving =
        move_window(Direction::kToFile, {SegmentCursor(segments), offset, part}, rw_flags);
    const auto moved = co_await std::move(moving);
    if (!moved) co_return moved;
    offset = offset.plus_unchecked(part);
    length -= part;
  }
  co_return Result<>();
}

}  // namespace guestio::disk
