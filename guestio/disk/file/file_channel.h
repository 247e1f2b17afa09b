// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/slist.hpp>

#include <array>
#include <deque>
#include <memory>

#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/transfer_plan.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/direct_calls.h"
#include "guestio/disk/file/direct_transfer.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/file/registered_bounce.h"
#include "guestio/disk/file/secure_erase.h"
#include "guestio/disk/file/shortage.h"
#include "guestio/disk/file/transfer_entry.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/task/wait_queue.h"
#include "guestio/uring/iopoll_ring.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// One thread's way to a FileDisk. This is where a request turns into an iovec: what the file takes
/// as it lies goes the short way (DirectTransfer); everything else is a coroutine over the thread's
/// ring, where transfer() locks the guest's memory, move_window() plans and submits.
class FileChannel final : public Channel {
 public:
  static Result<std::unique_ptr<FileChannel>> create(FileDisk& disk, uring::Loop& loop,
                                                     ByteCount bounce_limit);
  FileChannel(const FileChannel&) = delete;
  FileChannel& operator=(const FileChannel&) = delete;
  ~FileChannel() override;

  void start(Io& io) noexcept override;

  Result<Lifetime> lifetime() override;
  [[nodiscard]] ChannelStatistics statistics() const noexcept override;

 private:
  friend class DirectTransfer;
  using Window = buf::TransferPlan::Window;
  using IdleList = boost::intrusive::slist<DirectTransfer, boost::intrusive::cache_last<false>,
                                           boost::intrusive::constant_time_size<true>>;

  FileChannel(FileDisk& disk, uring::Loop& loop, buf::OpenBounceAccount bounce, uring::File file);

  [[nodiscard]] bool try_short_way(Io& io) noexcept;
  /// The end of the short way: done, failed, or to be begun again the long way.
  void finish_direct(Io& io, std::int32_t result, bool was_bounced) noexcept;
  /// The file that could be polled cannot any more: what follows is finished by interrupts.
  void stop_polling() noexcept;

  // One for each kind of request; each ends with io.on_done().
  task::Task<> serve(Io& io);
  task::Task<Result<>> transfer(Io& io);
  /// Waits for a flush that begins after this call. Those that are asked for while one is on its
  /// way share the next.
  task::Task<Result<>> flush();
  task::Task<> flush_in_rounds();
  task::Task<Result<>> discard(Io& io);
  task::Task<Result<>> write_zeroes(Io& io);
  task::Task<Result<>> secure_erase(Io& io);

  void submit_early() noexcept;

  /// Moves a window between host segments and the file, in as many calls as the limits need.
  task::Task<Result<>> move_window(Direction direction, Window window, int rw_flags);
  /// One plan, from bounce memory to bounce memory.
  task::Task<Result<>> execute(Direction direction, const buf::TransferPlan& plan,
                               const Window& window, int rw_flags);
  /// Reads the blocks of the file that a write covers in part into their bounce memory.
  task::Task<Result<>> fill_padding(const buf::TransferPlan& plan, std::span<std::byte> bounce);
  /// Bounce memory for one plan. Errors: of buf::BounceAccount::acquire().
  task::Task<Result<buf::TrackedBounceBuffer>> acquire_bounce(const buf::TransferPlan& plan);
  /// Moves all of `segments`, of which `needed` bytes must arrive: goes on after short transfers
  /// and waits out shortages of the host.
  task::Task<Result<>> move_segments(Direction direction, std::span<buf::IoBuffer> segments,
                                     FileOffset offset, std::size_t needed, int rw_flags);
  task::Task<Result<>> write_zero_bytes(FileOffset offset, std::uint64_t length, int rw_flags);
  /// Zeroes a range that is aligned as fallocate wants it.
  task::Task<Result<>> zero_aligned(FileOffset offset, std::uint64_t length, Unmap unmap,
                                    int rw_flags);
  /// fallocate(). Errors: unsupported (errno_class.h), host.
  task::Task<Result<>> allocate(int mode, FileOffset offset, std::uint64_t length);
  task::Task<std::int32_t> flush_once();
  /// An attempt ended with `result`: whether to wait and make another.
  [[nodiscard]] bool should_retry(ShortageRetry& retry, std::int32_t result) noexcept;

  [[nodiscard]] bool needs_guard() const noexcept {
    const std::uint64_t least = serves_sectors_ ? Sector::kSize : disk_.info().block_size.raw();
    return least < disk_.limits().block();
  }

  FileDisk& disk_;
  uring::Loop& loop_;
  buf::OpenBounceAccount bounce_;
  RegisteredBounce registered_bounce_;
  uring::File file_;
  const std::size_t bounce_per_call_;  // so that one request cannot take all of it
  buf::TransferPlan::Policy policy_ = buf::TransferPlan::Policy::kDirectWherePossible;
  buf::BounceCounters counters_;
  Counter direct_calls_;
  DirectCalls calls_;
  const bool bounces_reads_;                   // the disk's
  std::unique_ptr<uring::IopollRing> polled_;  // or nothing: the loop's ring for everything
  bool polls_ = false;                         // until the file refuses
  bool serves_sectors_ = false;                // once somebody asked for less than blocks may have
  std::deque<DirectTransfer> transfers_;       // never moved
  IdleList idle_;                              // of those

  bool is_flushing_ = false;  // flush_in_rounds() runs
  std::array<task::WaitQueue, 2> flush_waiters_;
  std::size_t next_round_ = 0;  // of those, the one that the next flush covers
  Result<> flush_result_;       // of the last

  Shortages shortages_;
  SecureErase secure_erase_;
  task::Scope requests_;
};

}  // namespace guestio::disk
