// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/slist.hpp>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "guestio/base/counter.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/buf/locked_io_buffers.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/channel_context.h"
#include "guestio/disk/file/direct_calls.h"
#include "guestio/disk/file/slow_path.h"
#include "guestio/uring/iopoll_ring.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/operation.h"

namespace guestio::disk {

/// The fast path of reads and writes within the file's direct I/O limits: one operation on the
/// guest's memory, without a coroutine. Only misaligned reads with a slow kernel copy use bounce
/// memory (bounce_reads.h), if some is free at once. Unfit requests, short transfers, refusals and
/// resource shortages go to the slow path from their beginning.
///
/// Threads: the channel's. Lifetime: nothing is in flight when it is destroyed.
class FastPath {
 public:
  FastPath(ChannelContext& context, SlowPath& slow_path,
           std::unique_ptr<uring::IopollRing> iopoll_ring);
  FastPath(const FastPath&) = delete;
  FastPath& operator=(const FastPath&) = delete;
  ~FastPath();

  /// Starts a read or write of at least one byte. It ends with io.on_done(), possibly before this
  /// returns. False, with nothing done: the request is unfit, or too many are in flight.
  [[nodiscard]] bool try_start(Io& io) noexcept;

  // Any thread.
  [[nodiscard]] const buf::BounceCounters& counters() const noexcept { return counters_; }
  /// Requests by a system call of the thread itself.
  [[nodiscard]] std::uint64_t direct_calls() const noexcept { return direct_calls_; }

 private:
  /// A request in flight, from a pool.
  class DirectTransfer final : private uring::Operation,
                               public boost::intrusive::slist_base_hook<> {
   public:
    explicit DirectTransfer(FastPath& path) noexcept : path_(path) {}

    /// As FastPath::try_start().
    [[nodiscard]] bool try_start(Io& io) noexcept;

   private:
    void prepare(io_uring_sqe& entry) noexcept override;
    void complete(std::int32_t result, std::uint32_t flags) noexcept override;
    /// Takes bounce memory for a misaligned read, if some is free.
    void bounce_read(bool is_call) noexcept;
    [[nodiscard]] std::int32_t call() noexcept;
    [[nodiscard]] std::int32_t call_once() const noexcept;
    /// Reads through bounce memory smaller than the request.
    [[nodiscard]] std::int32_t call_in_parts() noexcept;
    void finish(std::int32_t result) noexcept;

    [[nodiscard]] bool is_read() const noexcept { return io_->kind == IoKind::kRead; }
    [[nodiscard]] bool is_bounced() const noexcept { return bounce_.size() != 0; }
    [[nodiscard]] std::span<const buf::IoBuffer> segments() const noexcept {
      return is_bounced() ? bounce_.segments() : locked_.segments();
    }
    [[nodiscard]] int rw_flags() const noexcept;

    FastPath& path_;
    Io* io_ = nullptr;            // while in flight
    bool is_registered_ = false;  // the operation names registered memory
    bool is_polled_ = false;
    buf::LockedIoBuffers locked_;
    buf::TrackedBounceBuffer bounce_;  // of a bounce read
  };
  using IdleList = boost::intrusive::slist<DirectTransfer, boost::intrusive::cache_last<false>,
                                           boost::intrusive::constant_time_size<true>>;

  /// Completes the request, or passes it to the slow path.
  void finish(Io& io, std::int32_t result, bool was_bounced) noexcept;
  /// The file refused a polled operation: later ones complete by interrupt.
  void stop_polling() noexcept;

  // Per request. The limits are a copy, because they never change.
  uring::Loop& loop_;
  const uring::File file_;
  const buf::DirectIoLimits limits_;
  buf::BounceAccount& bounce_;
  const std::size_t max_bounce_per_call_;
  const bool bounces_reads_;
  bool is_polling_;  // until the file refuses
  DirectCalls calls_;
  IdleList idle_;
  buf::BounceCounters counters_;
  Counter direct_calls_;

  std::unique_ptr<uring::IopollRing> iopoll_ring_;  // nullable: interrupts only
  ChannelContext& context_;
  SlowPath& slow_path_;
  std::deque<DirectTransfer> transfers_;  // never moved
};

}  // namespace guestio::disk
