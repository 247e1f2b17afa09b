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

/// What is set aside for one thread, in whole pages.
struct BounceShare {
  ByteCount quota;     ///< for this thread alone
  ByteCount overflow;  ///< for whoever needs more than his quota, this thread included

  /// `limit` in two halves: alone, a thread can hold all of it and whatever overflow others do not
  /// use; it is never left with less than half.
  [[nodiscard]] static BounceShare of(ByteCount limit) noexcept;
  [[nodiscard]] std::uint64_t limit() const noexcept { return quota.raw() + overflow.raw(); }
  friend bool operator==(const BounceShare&, const BounceShare&) = default;
};

/// What to do with a request that not even the whole budget can serve.
enum class Oversize : std::uint8_t {
  kFail,      ///< too large, at once
  kTruncate,  ///< grant the most that can ever be had: the caller works in parts
};

struct AcquireOptions {
  std::size_t alignment = kPageSize;  ///< a power of two; below a page it is a page
  Oversize oversize = Oversize::kFail;
  task::StopToken token = {};  ///< ends the wait with cancelled
};

/// A bounce buffer that counts against a budget, and gives back what it took, memory first, when it
/// goes away. It remembers its own pages: swapping two of them changes nothing about that.
///
/// Not zeroed, as BounceBuffer. Move-only. Threads: that of the account it came from.
class [[nodiscard]] TrackedBounceBuffer {
 public:
  /// Of no bytes and no memory; what is left when it is moved from.
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

  /// As asked for, or less with Oversize::kCut.
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

/// One thread's account with a BounceBufferTracker: its quota, its cache of memory, its line of
/// waiters. As long as the quota does, acquiring and releasing touch nothing that another thread
/// uses. Buffers of up to BouncePool::kSlabBytes take nothing from the heap or the system; a larger
/// one is mapped each time, so large transfers are better cut.
///
/// Invariants, whenever no function of it runs:
/// 1. free + held == quota + borrowed, in pages.
/// 2. free == 0 or borrowed == 0: overflow that is not used goes back at once.
/// 3. Who waits longest does not fit in what is free; nobody else is looked at.
///
/// Threads: one, on which waiters are resumed: from within the release, the cancellation or the
/// serve() that makes room for them, by the rules of task::WaitQueue. Lifetime: its tracker's.
class BounceAccount {
 public:
  /// How often in a row a thread may hand overflow on to its own waiters while others wait for it.
  static constexpr unsigned kMaxOvertakes = 16;

  class Acquire;

  BounceAccount(const BounceAccount&) = delete;
  BounceAccount& operator=(const BounceAccount&) = delete;
  /// Requires: nobody waits, every buffer is back.
  ~BounceAccount();

  /// A buffer of `size` bytes without waiting; size 0 always. Errors: too large (see Oversize),
  /// busy when it would have to wait, host (no memory).
  [[nodiscard]] Result<TrackedBounceBuffer> try_acquire(std::size_t size,
                                                        const AcquireOptions& options = {}) {
    const std::size_t pages = internal::pages_for(size);
    if (pages > free_ || !waiters_.is_empty()) [[unlikely]]
      return try_acquire_slow_path(size, options);
    free_ -= pages;
    return grant(size, options.alignment);
  }
  /// Awaits it: `auto acquiring = account.acquire(size); auto bounce = co_await acquiring;`.
  /// Errors: too large (see Oversize), at once; cancelled; host. A waiter that is destroyed leaves
  /// no trace.
  [[nodiscard]] Acquire acquire(std::size_t size, const AcquireOptions& options = {}) noexcept;

  /// The most bytes that a request can ever be granted.
  [[nodiscard]] std::size_t max_grant() const noexcept {
    return (quota_ + budget_.reach(place_.device)) * kPageSize;
  }
  [[nodiscard]] std::size_t held() const noexcept { return held_pages() * kPageSize; }
  [[nodiscard]] const BounceShare& share() const noexcept { return share_; }
  /// The slab that holds `buffer`, which from now on stays mapped as long as the tracker, so that
  /// the kernel can be told about it. Requires: a buffer of this account, with bytes.
  [[nodiscard]] std::span<std::byte> keep_slab(const TrackedBounceBuffer& buffer) noexcept {
    return cache_.keep_slab(buffer.bytes().data());
  }
  /// Any thread.
  [[nodiscard]] BounceStatistics statistics() const noexcept;

  /// Other threads make themselves heard by `call`: it is called from any of them, under a lock, at
  /// most once until serve() has run, and must have serve() called on this thread soon. It must not
  /// use the account itself. Needed as soon as another account of the same budget is in use.
  void open(BounceWakeup call);
  /// `call` is not used any more; a serve() that it asked for may still come. Requires: quiet, as
  /// for the destructor.
  void close() noexcept;
  /// Takes what other threads have handed over, and serves waiters.
  void serve() noexcept;

 private:
  friend class BounceBufferTracker;
  friend class TrackedBounceBuffer;
  friend class Acquire;
  using Clock = std::chrono::steady_clock;

  /// Written by one thread, read by any: a load and a store, no locked instruction. Relaxed: it is
  /// for people to look at.
  class Counter {
   public:
    void add(std::uint64_t count) noexcept { set(get() + count); }
    void raise_to(std::uint64_t value) noexcept {
      if (value > get()) set(value);
    }
    [[nodiscard]] std::uint64_t get() const noexcept {
      return value_.load(std::memory_order_relaxed);
    }

   private:
    void set(std::uint64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
    std::atomic<std::uint64_t> value_{0};
  };

  BounceAccount(BounceBudget& budget, internal::BounceDevice& device, BouncePool& pool,
                const BounceShare& share) noexcept;

  [[nodiscard]] std::size_t held_pages() const noexcept { return quota_ + borrowed_ - free_; }
  [[nodiscard]] Acquire* longest_waiter() noexcept;

  /// Makes the buffer for which the pages have been taken. Errors: host; the pages are then back.
  [[nodiscard]] Result<TrackedBounceBuffer> grant(std::size_t size, std::size_t alignment) {
    const auto placed = internal::place_buffer(cache_, size, alignment);
    if (!placed) [[unlikely]] {
      give_back(internal::pages_for(size));
      return fail(placed.error());
    }
    grants_.add(1);
    high_water_.raise_to(held_pages());
    return TrackedBounceBuffer(*this, *placed);
  }
  void release(const internal::PlacedBuffer& buffer) noexcept {
    // Memory first, credit second: who is granted the credit finds the memory.
    if (buffer.block.pages != 0) cache_.release(buffer.block);
    give_back(internal::pages_for(buffer.segment.length));
  }
  void give_back(std::size_t pages) noexcept {
    free_ += pages;
    if (borrowed_ != 0 || !waiters_.is_empty()) [[unlikely]]
      settle();
  }

  [[nodiscard]] Result<TrackedBounceBuffer> try_acquire_slow_path(std::size_t size,
                                                                  const AcquireOptions& options);
  /// Takes `pages` with the help of overflow, without a line in front. False: the place in the line
  /// for overflow is kept.
  [[nodiscard]] bool take_with_overflow(std::size_t pages, Clock::time_point since) noexcept;
  /// Makes the invariants true again, and resumes those who are served.
  void settle() noexcept;
  [[nodiscard]] bool may_serve_own() noexcept;
  void serve(Acquire& waiter) noexcept;
  /// Requires: `waiter` has left the line without having been served.
  void give_up(const Acquire& waiter) noexcept;
  void count_wait(Clock::time_point since) noexcept;
  /// Settles with the budget. False: nothing changes by it any more.
  [[nodiscard]] bool exchange() noexcept;
  void add_borrowed(std::size_t pages) noexcept {
    free_ += pages;
    borrowed_ += pages;
  }

  // Of the account's thread.
  const std::size_t quota_;
  std::size_t free_;               // pages in hand
  std::size_t borrowed_ = 0;       // pages of overflow, in use or in hand
  std::size_t asked_ = 0;          // pages that the place in the line wants, unless it was served
  Clock::time_point asked_since_;  // and whose place it is: that of who came then
  unsigned overtakes_ = 0;         // waiters served in a row from overflow that others wait for
  task::WaitQueue waiters_;
  BounceCache cache_;
  const BounceShare share_;

  // For everybody.
  // Set by the tracker, under its lock; cleared by close(), which releases what the thread did to
  // the next one that opens the account.
  std::atomic<bool> is_open_{false};
  Counter grants_;
  Counter waits_;
  Counter cancelled_;
  Counter wait_nanoseconds_;
  Counter longest_wait_nanoseconds_;
  Counter high_water_;
  BounceBudget& budget_;
  internal::BouncePlace place_;
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

/// Keeps an account for one thread until it goes away, on that thread.
struct CloseBounceAccount {
  void operator()(BounceAccount* account) const noexcept { account->close(); }
};
using OpenBounceAccount = std::unique_ptr<BounceAccount, CloseBounceAccount>;

}  // namespace guestio::buf
