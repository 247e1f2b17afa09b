// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_budget.h"
#include "guestio/buf/bounce_cache.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/bounce_placement.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/task/stop.h"
#include "guestio/task/wait_queue.h"

namespace guestio::buf {

class BounceAccount;

/// The bounce memory reserved for one thread, in whole pages.
struct BounceShare {
  ByteCount quota;     ///< for this thread alone
  ByteCount overflow;  ///< for any thread above its quota, this one included

  /// `limit` in two halves. A thread is guaranteed half of it, and can hold all of it plus unused
  /// overflow of others.
  [[nodiscard]] static BounceShare of(ByteCount limit) noexcept;
  [[nodiscard]] std::uint64_t limit() const noexcept { return quota.raw() + overflow.raw(); }
  friend bool operator==(const BounceShare&, const BounceShare&) = default;
};

/// The treatment of a request above max_grant().
enum class Oversize : std::uint8_t {
  kFail,      ///< too large, immediately
  kTruncate,  ///< grant max_grant(): the caller works in parts
};

struct AcquireOptions {
  std::size_t alignment = kPageSize;  ///< a power of two; below a page it is a page
  Oversize oversize = Oversize::kFail;
  task::StopToken token = {};  ///< ends the wait with cancelled
};

/// A bounce buffer charged to a budget. Its destructor returns the memory, then the pages. Each
/// buffer tracks its own pages, also after a swap.
///
/// Not zeroed, as BounceBuffer. Move-only. Threads: that of the account it came from.
class [[nodiscard]] TrackedBounceBuffer {
 public:
  /// Empty, without memory; also the state after a move.
  TrackedBounceBuffer() noexcept = default;
  TrackedBounceBuffer(TrackedBounceBuffer&& other) noexcept
      : account_(std::exchange(other.account_, nullptr)),
        buffer_(std::exchange(other.buffer_, {})) {}
  TrackedBounceBuffer& operator=(TrackedBounceBuffer&& other) noexcept {
    std::swap(account_, other.account_);
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~TrackedBounceBuffer() {
    if (account_ != nullptr) release();
  }

  /// As requested, or less with Oversize::kTruncate.
  [[nodiscard]] std::size_t size() const noexcept { return buffer_.segment.length; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept {
    return {buffer_.segment.data, buffer_.segment.length};
  }
  /// The same bytes for the kernel: always one segment.
  [[nodiscard]] std::span<const IoBuffer> segments() const noexcept {
    return {&buffer_.segment, 1};
  }

 private:
  friend class BounceAccount;
  TrackedBounceBuffer(BounceAccount& account, const internal::PlacedBuffer& buffer) noexcept
      : account_(&account), buffer_(buffer) {}
  void release() noexcept;

  BounceAccount* account_ = nullptr;
  internal::PlacedBuffer buffer_;
};

/// One thread's account with a BounceBufferTracker: its quota, its memory cache, its queue of
/// waiters. Within the quota, acquire and release share no state with other threads. Buffers of up
/// to BouncePool::kSlabBytes need neither the heap nor a system call. A larger one is mapped each
/// time, so split large transfers.
///
/// Invariants, whenever no function of it runs:
/// 1. free + held == quota + borrowed, in pages.
/// 2. free == 0 or borrowed == 0: unused overflow is returned immediately.
/// 3. The longest waiter exceeds the free pages; no later waiter is considered.
///
/// Threads: one. Waiters are resumed on it, within the release, cancellation or serve() that frees
/// their pages, by the rules of task::WaitQueue. Lifetime: that of its tracker.
class BounceAccount {
 public:
  /// How often in a row a thread may pass overflow to its own waiters while others wait for it.
  static constexpr unsigned kMaxOvertakes = 16;

  class Acquire;

  /// For BounceBufferTracker: an open account. Requires: the lender has allotted the share.
  BounceAccount(internal::OverflowLender& lender, internal::BounceDevice& device, BouncePool& pool,
                const BounceShare& share) noexcept;
  BounceAccount(const BounceAccount&) = delete;
  BounceAccount& operator=(const BounceAccount&) = delete;
  /// Requires: no waiters, all buffers released.
  ~BounceAccount();

  /// Acquires `size` bytes without waiting; size 0 always succeeds. Errors: too large (see
  /// Oversize), busy if it would have to wait, host (no memory).
  [[nodiscard]] Result<TrackedBounceBuffer> try_acquire(std::size_t size,
                                                        const AcquireOptions& options = {}) {
    const std::size_t pages = internal::pages_for(size);
    if (pages > free_ || !waiters_.is_empty()) [[unlikely]]
      return try_acquire_slow_path(size, options);
    free_ -= pages;
    return grant(size, options.alignment);
  }
  /// Awaits a buffer: `auto bounce = co_await account.acquire(size, options);`, with named options
  /// (task/task.h). Errors: too large (see Oversize), immediately; cancelled; host. A destroyed
  /// waiter leaves the queue.
  [[nodiscard]] Acquire acquire(std::size_t size, const AcquireOptions& options = {}) noexcept;

  /// The maximum bytes of one request.
  [[nodiscard]] std::size_t max_grant() const noexcept {
    return (quota_ + lender_.reach(entry_.device)) * kPageSize;
  }
  [[nodiscard]] std::size_t held() const noexcept { return held_pages() * kPageSize; }
  [[nodiscard]] const BounceShare& share() const noexcept { return share_; }
  /// The slab of `buffer`. It stays mapped for the life of the tracker from now on, so that the
  /// kernel can register it. Requires: a non-empty buffer of this account.
  [[nodiscard]] std::span<std::byte> keep_slab(const TrackedBounceBuffer& buffer) noexcept {
    return cache_.keep_slab(buffer.bytes().data());
  }
  /// Any thread.
  [[nodiscard]] BounceStatistics statistics() const noexcept;

  /// Sets the wake-up by other threads. Any thread calls `wakeup` under a lock, at most once until
  /// serve() has run. It must cause a serve() on this thread soon, and must not use the account
  /// itself. Required before another account of the same budget is used.
  void open(BounceWakeup wakeup);
  /// `wakeup` is never called again; a serve() already requested may still follow. Requires: as for
  /// the destructor.
  void close() noexcept;
  /// Any thread. False synchronizes with close().
  [[nodiscard]] bool is_open() const noexcept { return is_open_.load(std::memory_order_acquire); }
  /// Collects pages granted by other threads, and serves waiters.
  void serve() noexcept;

 private:
  friend class TrackedBounceBuffer;
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] std::size_t held_pages() const noexcept { return quota_ + borrowed_ - free_; }
  [[nodiscard]] Acquire* longest_waiter() noexcept;

  /// Makes a buffer for pages already taken. Errors: host; the pages are then returned.
  [[nodiscard]] Result<TrackedBounceBuffer> grant(std::size_t size, std::size_t alignment) {
    const auto placed = internal::place_buffer(cache_, size, alignment);
    if (!placed) [[unlikely]] {
      return_pages(internal::pages_for(size));
      return fail(placed.error());
    }
    ++grants_;
    high_water_.raise_to(held_pages());
    return TrackedBounceBuffer(*this, *placed);
  }
  void release(const internal::PlacedBuffer& buffer) noexcept {
    // Memory before pages: the next holder of the pages finds the memory.
    if (buffer.block.pages != 0) cache_.release(buffer.block);
    return_pages(internal::pages_for(buffer.segment.length));
  }
  void return_pages(std::size_t pages) noexcept {
    free_ += pages;
    if (borrowed_ != 0 || !waiters_.is_empty()) [[unlikely]]
      settle();
  }

  [[nodiscard]] Result<TrackedBounceBuffer> try_acquire_slow_path(std::size_t size,
                                                                  const AcquireOptions& options);
  /// Takes `pages` with overflow, for a request first in its queue. False: the account stays in the
  /// queue for overflow.
  [[nodiscard]] bool take_with_overflow(std::size_t pages, Clock::time_point since) noexcept;
  /// Restores the invariants, and resumes served waiters.
  void settle() noexcept;
  [[nodiscard]] bool may_serve_own() noexcept;
  void serve(Acquire& waiter) noexcept;
  /// Requires: `waiter` has left the queue unserved.
  void abandon(const Acquire& waiter) noexcept;
  void count_wait(Clock::time_point since) noexcept;
  /// Returns surplus to and requests overflow from the budget. False: no further change.
  [[nodiscard]] bool exchange() noexcept;
  void add_borrowed(std::size_t pages) noexcept {
    free_ += pages;
    borrowed_ += pages;
  }

  // Account's thread only.
  const std::size_t quota_;
  std::size_t free_;                   // pages
  std::size_t borrowed_ = 0;           // pages of overflow, in use or free
  std::size_t requested_ = 0;          // pages of the queue entry; 0 once served
  Clock::time_point requested_since_;  // arrival of the waiter of the queue entry
  unsigned overtakes_ = 0;             // waiters served in a row from overflow others wait for
  task::WaitQueue waiters_;
  BounceCache cache_;
  const BounceShare share_;

  // For everybody.
  // Set by open(), for the tracker under its lock; cleared by close(), which releases what the
  // thread did to the next one that opens the account.
  std::atomic<bool> is_open_{true};
  Counter grants_;
  Counter waits_;
  Counter cancelled_;
  Counter wait_nanoseconds_;
  Counter longest_wait_nanoseconds_;
  Counter high_water_;
  internal::OverflowLender& lender_;
  internal::BounceQueueEntry entry_;
};

/// The awaitable of BounceAccount::acquire(); lives in the awaiting coroutine.
class [[nodiscard]] BounceAccount::Acquire final : private task::Waiter {
 public:
  Acquire(BounceAccount& account, std::size_t size, const AcquireOptions& options) noexcept
      : Waiter(account.waiters_, options.token),
        account_(account),
        size_(size),
        options_(options) {}
  Acquire(const Acquire&) = delete;
  Acquire& operator=(const Acquire&) = delete;
  ~Acquire();

  [[nodiscard]] bool await_ready() noexcept;
  [[nodiscard]] bool await_suspend(std::coroutine_handle<> handle) noexcept;
  [[nodiscard]] Result<TrackedBounceBuffer> await_resume() noexcept;

 private:
  friend class BounceAccount;
  enum class State : std::uint8_t {
    kNew,
    kWaiting,  ///< in the account's line, or woken by its token
    kServed,   ///< its pages have been taken for it
    kTooLarge,
    kCancelled,  ///< before it began to wait
    kOver,
  };

  BounceAccount& account_;
  std::size_t size_;
  AcquireOptions options_;
  std::size_t pages_ = 0;
  Clock::time_point since_;
  State state_ = State::kNew;
};

inline BounceAccount::Acquire BounceAccount::acquire(std::size_t size,
                                                     const AcquireOptions& options) noexcept {
  return {*this, size, options};
}

inline void TrackedBounceBuffer::release() noexcept { account_->release(buffer_); }

/// The deleter of an open account: closes it, on its thread.
struct CloseBounceAccount {
  void operator()(BounceAccount* account) const noexcept { account->close(); }
};
using OpenBounceAccount = std::unique_ptr<BounceAccount, CloseBounceAccount>;

}  // namespace guestio::buf
