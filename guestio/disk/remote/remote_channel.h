// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/guard/guarded_range.h"
#include "guestio/disk/remote/remote_command.h"
#include "guestio/disk/remote/remote_disk.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// One thread's channel to a disk whose engine is a library in user space. The engine gets private
/// copies, never guest memory: a guest may change a page while a checksum is computed over it, and
/// may take it away while the engine copies it.
///
///     start() → bounce memory → copy in → submit() … RemoteCommand::complete() → copy out →
///     on_done()
///
/// A request is split into commands within RemoteLimits. A write of part of a block is a
/// read-modify-write that excludes other writes to the block. When bounce memory is used up,
/// requests wait in order. When UnflushedWrites are too many, a flush precedes each change.
///
/// Threads: its loop's. Lifetime: as Channel.
class RemoteChannel : public Channel {
 public:
  void start(Io& io) noexcept final;
  void on_available(std::move_only_function<void()> available) final {
    available_ = std::move(available);
  }
  [[nodiscard]] ChannelStatistics statistics() const noexcept override;

 protected:
  RemoteChannel(RemoteDisk& disk, uring::Loop& loop, buf::OpenBounceAccount bounce);
  RemoteChannel(const RemoteChannel&) = delete;
  RemoteChannel& operator=(const RemoteChannel&) = delete;
  ~RemoteChannel() override = default;

  /// Starts a command; never blocks. command.complete() follows exactly once, now or later, on this
  /// thread. Errors of the completion: kClosed while the server is away, host (the server's errno),
  /// short transfer, and the engine's own.
  virtual void submit(RemoteCommand& command) noexcept = 0;
  /// The server is back: requests that failed with kClosed are worth another attempt.
  void notify_available() {
    if (available_) available_();
  }
  [[nodiscard]] uring::Loop& loop() noexcept { return loop_; }

 private:
  class Running;
  struct Part;

  task::Task<> serve(Io& io);
  task::Task<Result<>> perform(Io& io);
  /// Reads and writes.
  task::Task<Result<>> transfer(Io& io);
  task::Task<Result<>> transfer_part(Io& io, Part part);
  /// Reads the blocks that a write covers partly.
  task::Task<Result<>> read_edges(Part part, std::span<std::byte> bounce);
  task::Task<Result<>> discard(Io& io);
  task::Task<Result<>> write_zeroes(Io& io);
  /// Writes zero bytes, with read-modify-write at the edges.
  task::Task<Result<>> write_zero_bytes(FileOffset offset, std::uint64_t length);
  task::Task<Result<>> run_ranges(RemoteCommand::Work work);
  [[nodiscard]] GuardedRange guard_blocks(const RemoteCommand::Work& work) noexcept;
  task::Task<Result<>> flush();
  [[nodiscard]] Running run(RemoteCommand& command) noexcept;
  [[nodiscard]] Part first_part(FileOffset offset, std::uint64_t length) const noexcept;
  [[nodiscard]] Durability durability_of_command(const Io& io) const noexcept;
  /// A flush comes before the next change.
  [[nodiscard]] bool is_full() const noexcept {
    const UnflushedWrites* const unflushed = disk_.unflushed_writes();
    return unflushed != nullptr && unflushed->is_full();
  }
  /// Writes may cover part of a block, or collide with a discard.
  [[nodiscard]] bool needs_guard() const noexcept {
    return limits_.alignment > Sector::kSize || limits_.range_block != 0;
  }

  RemoteDisk& disk_;
  const RemoteLimits& limits_;
  uring::Loop& loop_;
  buf::OpenBounceAccount bounce_;
  const std::uint64_t max_transfer_;
  buf::BounceCounters counters_;
  std::move_only_function<void()> available_;
  task::Scope requests_;
};

}  // namespace guestio::disk
