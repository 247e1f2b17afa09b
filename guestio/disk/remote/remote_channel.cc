// SPDX-License-Identifier: MIT
#include "guestio/disk/remote/remote_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/disk/guard/guarded_range.h"

namespace guestio::disk {

using Work = RemoteCommand::Work;

/// A prefix of a transfer that one command serves, with the whole blocks around it:
///
///     blocks    |.......|.......|.......|
///     bytes         [head   …       ]
///               ^start  ^offset         ^end
struct RemoteChannel::Part {
  std::uint64_t start = 0;   ///< of the blocks
  std::uint64_t end = 0;     ///< of the blocks
  std::uint64_t offset = 0;  ///< of the bytes
  std::uint64_t length = 0;  ///< of the bytes

  [[nodiscard]] std::uint64_t head() const noexcept { return offset - start; }
  [[nodiscard]] std::uint64_t tail() const noexcept { return end - (offset + length); }
  [[nodiscard]] std::uint64_t size() const noexcept { return end - start; }
};

/// Awaits a submitted command, and keeps what the server has not flushed.
class RemoteChannel::Running {
 public:
  Running(RemoteChannel& channel, RemoteCommand& command) noexcept
      : channel_(channel), command_(command), unflushed_(channel.disk_.unflushed_writes()) {}
  [[nodiscard]] bool await_ready() noexcept {
    if (unflushed_ != nullptr && command_.work().kind == IoKind::kFlush) {
      flushed_ = unflushed_->end();
    }
    channel_.submit(command_);
    return command_.is_complete();
  }
  void await_suspend(std::coroutine_handle<> waiting) noexcept { command_.set_waiting(waiting); }
  [[nodiscard]] Result<> await_resume() const noexcept {
    if (unflushed_ != nullptr && command_.result()) keep();
    return command_.result();
  }

 private:
  void keep() const noexcept {
    switch (command_.work().kind) {
      case IoKind::kRead: break;
      case IoKind::kFlush: unflushed_->drop_before(flushed_); break;
      default: unflushed_->add(command_.work());
    }
  }

  RemoteChannel& channel_;
  RemoteCommand& command_;
  UnflushedWrites* const unflushed_;
  UnflushedWrites::Position flushed_ = 0;
};

namespace {

/// Leaves bounce memory to other requests.
std::uint64_t max_bounce_per_command(const buf::BounceAccount& bounce,
                                     const RemoteLimits& limits) noexcept {
  const std::uint64_t share = std::clamp(bounce.share().limit() / 4, std::uint64_t{2 * kPageSize},
                                         std::uint64_t{buf::BouncePool::kSlabBytes});
  const std::uint64_t most = std::min(share, limits.max_transfer);
  return std::max(align_down(most, limits.alignment), limits.alignment);
}

}  // namespace

RemoteChannel::RemoteChannel(RemoteDisk& disk, uring::Loop& loop, buf::OpenBounceAccount bounce)
    : disk_(disk),
      limits_(disk.limits()),
      loop_(loop),
      bounce_(std::move(bounce)),
      max_transfer_(max_bounce_per_command(*bounce_, limits_)) {}

void RemoteChannel::start(Io& io) noexcept {
  if (auto checked = check_io(disk_.info(), io); !checked) return io.on_done(checked);
  requests_.spawn(serve(io));
}

ChannelStatistics RemoteChannel::statistics() const noexcept {
  return {.transfers = counters_, .bounce = bounce_->statistics()};
}

task::Task<> RemoteChannel::serve(Io& io) {
  const auto result = co_await perform(io);
  io.on_done(result);
}

task::Task<Result<>> RemoteChannel::perform(Io& io) {
  switch (io.kind) {
    case IoKind::kRead:
    case IoKind::kWrite: return transfer(io);
    case IoKind::kFlush: return flush();
    case IoKind::kDiscard: return discard(io);
    case IoKind::kWriteZeroes: return write_zeroes(io);
    case IoKind::kSecureErase: break;
  }
  return discard(io);  // not reached: check_io() refuses an erase
}

RemoteChannel::Running RemoteChannel::run(RemoteCommand& command) noexcept {
  return {*this, command};
}

Durability RemoteChannel::durability_of_command(const Io& io) const noexcept {
  return limits_.has_fua ? io.durability : Durability::kCached;
}

RemoteChannel::Part RemoteChannel::first_part(FileOffset offset,
                                              std::uint64_t length) const noexcept {
  Part part;
  part.offset = offset.raw();
  part.start = align_down(part.offset, limits_.alignment);
  const std::uint64_t most = part.start + max_transfer_;
  part.length = std::min(length, most - part.offset);
  part.end = align_up(part.offset + part.length, limits_.alignment);
  return part;
}

task::Task<Result<>> RemoteChannel::transfer(Io& io) {
  std::uint64_t done = 0;
  while (done < io.length) {
    Part part = first_part(io.offset.plus_unchecked(done), io.length - done);
    const auto moved = co_await transfer_part(io, part);
    if (!moved) co_return moved;
    done += part.length;
  }
  const bool needs_flush = io.kind == IoKind::kWrite && io.durability == Durability::kStable &&
                           !limits_.has_fua && io.length != 0;
  if (needs_flush) co_return co_await flush();
  co_return Result<>();
}

task::Task<Result<>> RemoteChannel::transfer_part(Io& io, Part part) {
  const buf::AcquireOptions options;
  auto acquiring = bounce_->acquire(part.size(), options);
  auto granted = co_await acquiring;
  if (!granted) co_return fail(granted.error());
  const std::span<std::byte> bounce = granted->bytes();
  const std::span<std::byte> bytes = bounce.subspan(part.head(), part.length);
  const auto buffers = io.buffers.subrange(part.offset - io.offset.raw(), part.length);
  ++counters_.plans;
  counters_.bounced.add(buf::BounceReason::kPolicy, part.length);
  counters_.bounced.add(buf::BounceReason::kPadding, part.size() - part.length);

  const bool has_padding = part.head() + part.tail() != 0;
  GuardedRange guarded(disk_.block_guard(), loop_, FileOffset(part.start), part.size(),
                       has_padding ? BlockGuard::Kind::kExclusive : BlockGuard::Kind::kShared);
  const bool is_write = io.kind == IoKind::kWrite;
  if (is_write) {
    if (is_full()) {
      const auto flushed = co_await flush();
      if (!flushed) co_return flushed;
    }
    if (needs_guard()) co_await guarded.claim();
    if (has_padding) {
      const auto read = co_await read_edges(part, bounce);
      if (!read) co_return read;
    }
    if (auto copied = buffers.reader().read(bytes); !copied) co_return copied;
  }
  const Work work{.kind = io.kind,
                  .durability = durability_of_command(io),
                  .offset = FileOffset(part.start),
                  .length = part.size(),
                  .data = bounce};
  RemoteCommand command(work);
  Running running = run(command);
  const auto moved = co_await running;
  if (!moved || is_write) co_return moved;
  co_return buffers.writer().write(bytes);
}

task::Task<Result<>> RemoteChannel::read_edges(Part part, std::span<std::byte> bounce) {
  const std::uint64_t block = limits_.alignment;
  const bool is_one_block = part.size() == block;
  const bool reads_tail = part.tail() != 0 && !is_one_block;
  for (const std::uint64_t at : {std::uint64_t{0}, part.size() - block}) {
    const bool is_wanted = at == 0 ? part.head() != 0 || is_one_block : reads_tail;
    if (!is_wanted) continue;
    const Work work{.kind = IoKind::kRead,
                    .offset = FileOffset(part.start + at),
                    .length = block,
                    .data = bounce.subspan(at, block)};
    RemoteCommand command(work);
    Running running = run(command);
    const auto read = co_await running;
    if (!read) co_return read;
    if (is_one_block) break;
  }
  co_return Result<>();
}

task::Task<Result<>> RemoteChannel::discard(Io& io) {
  // What does not fill a block stays: a discard is advice.
  const std::uint64_t first = align_up(io.offset.raw(), limits_.alignment);
  const std::uint64_t end = align_down(io.offset.raw() + io.length, limits_.alignment);
  if (first >= end) co_return Result<>();
  Work work{.kind = IoKind::kDiscard,
            .durability = durability_of_command(io),
            .offset = FileOffset(first),
            .length = end - first};
  const auto discarded = co_await run_ranges(work);
  const bool needs_flush = io.durability == Durability::kStable && !limits_.has_fua;
  if (discarded && needs_flush) co_return co_await flush();
  co_return discarded;
}

task::Task<Result<>> RemoteChannel::write_zeroes(Io& io) {
  const std::uint64_t start = io.offset.raw();
  const std::uint64_t end = start + io.length;
  std::uint64_t first = align_up(start, limits_.alignment);
  std::uint64_t last = align_down(end, limits_.alignment);
  if (!limits_.has_write_zeroes || first >= last) first = last = end;
  auto zeroed = co_await write_zero_bytes(FileOffset(start), first - start);
  if (zeroed && first < last) {
    Work work{.kind = IoKind::kWriteZeroes,
              .durability = durability_of_command(io),
              .unmap = io.unmap,
              .offset = FileOffset(first),
              .length = last - first};
    // Other writes of part of these blocks are ordered by the guard of their own edges only: the
    // guest orders overlapping requests.
    zeroed = co_await run_ranges(work);
  }
  if (zeroed) zeroed = co_await write_zero_bytes(FileOffset(last), end - last);
  // The written edges have no FUA.
  const bool has_edges = first != start || last != end;
  if (zeroed && io.durability == Durability::kStable && (!limits_.has_fua || has_edges)) {
    zeroed = co_await flush();
  }
  co_return zeroed;
}

task::Task<Result<>> RemoteChannel::write_zero_bytes(FileOffset offset, std::uint64_t length) {
  while (length != 0) {
    Part part = first_part(offset, length);
    const buf::AcquireOptions options;
    auto acquiring = bounce_->acquire(part.size(), options);
    auto granted = co_await acquiring;
    if (!granted) co_return fail(granted.error());
    const bool has_padding = part.head() + part.tail() != 0;
    GuardedRange guarded(disk_.block_guard(), loop_, FileOffset(part.start), part.size(),
                         has_padding ? BlockGuard::Kind::kExclusive : BlockGuard::Kind::kShared);
    if (is_full()) {
      const auto flushed = co_await flush();
      if (!flushed) co_return flushed;
    }
    if (needs_guard()) co_await guarded.claim();
    if (has_padding) {
      const auto read = co_await read_edges(part, granted->bytes());
      if (!read) co_return read;
    }
    std::memset(granted->bytes().data() + part.head(), 0, part.length);
    const Work work{.kind = IoKind::kWrite,
                    .offset = FileOffset(part.start),
                    .length = part.size(),
                    .data = granted->bytes()};
    RemoteCommand command(work);
    Running running = run(command);
    const auto written = co_await running;
    if (!written) co_return written;
    offset = offset.plus_unchecked(part.length);
    length -= part.length;
  }
  co_return Result<>();
}

/// All blocks of RemoteLimits::range_block that the range touches.
GuardedRange RemoteChannel::guard_blocks(const Work& work) noexcept {
  const std::uint64_t block = std::max<std::uint64_t>(limits_.range_block, 1);
  const std::uint64_t start = align_down(work.offset.raw(), block);
  const std::uint64_t end = align_up(work.offset.raw() + work.length, block);
  return {disk_.block_guard(), loop_, FileOffset(start), end - start, BlockGuard::Kind::kExclusive};
}

task::Task<Result<>> RemoteChannel::run_ranges(Work work) {
  const std::uint64_t most = align_down(limits_.max_range, limits_.alignment);
  std::uint64_t left = work.length;
  while (left != 0) {
    work.length = std::min(left, most);
    if (is_full()) {
      const auto flushed = co_await flush();
      if (!flushed) co_return flushed;
    }
    GuardedRange guarded = guard_blocks(work);
    if (limits_.range_block != 0) co_await guarded.claim();
    RemoteCommand command(work);
    Running running = run(command);
    const auto done = co_await running;
    if (!done) co_return done;
    work.offset = work.offset.plus_unchecked(work.length);
    left -= work.length;
  }
  co_return Result<>();
}

task::Task<Result<>> RemoteChannel::flush() {
  if (!limits_.has_flush) co_return Result<>();
  const Work work{.kind = IoKind::kFlush};
  RemoteCommand command(work);
  Running running = run(command);
  const auto flushed = co_await running;
  co_return flushed;
}

}  // namespace guestio::disk
