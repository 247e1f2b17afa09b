// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>

#include "guestio/base/error.h"
#include "guestio/base/units.h"

namespace guestio::buf {

class BounceAccount;

/// Causes BounceAccount::serve() on the account's thread.
using BounceWakeup = std::function<void(BounceAccount&)>;

namespace internal {

/// One tracker's share of the budget. Protected by the budget's lock, except for the limit.
struct BounceDevice {
  explicit BounceDevice(std::size_t pages) noexcept : limit(pages) {}

  const std::size_t limit;        ///< maximum pages of overflow of its threads
  std::size_t used = 0;           ///< pages of overflow they hold
  std::uint64_t passed_over = 0;  ///< the last walk of the queue that found it at its limit
};

/// An account's entry in the queue for overflow: the pages its longest waiter lacks. Protected by
/// the budget's lock, except for the references.
struct BounceQueueEntry
    : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::safe_link>> {
  BounceQueueEntry(BounceAccount& of, BounceDevice& belongs_to) noexcept
      : account(of), device(belongs_to) {}

  BounceAccount& account;
  BounceDevice& device;
  std::chrono::steady_clock::time_point since;  ///< when its waiter came: the order of the line
  std::size_t wanted = 0;                       ///< pages; the place is in the line when not 0
  std::size_t handed = 0;                       ///< pages that it was given and has not collected
  bool is_woken = false;                        ///< `call` has been used, collect() has not come
  BounceWakeup wakeup;                          ///< has its thread collect
};

/// The pages of a BounceBudget, as its trackers and their accounts use them. Threads: any.
class OverflowLender {
 public:
  explicit OverflowLender(std::size_t total_pages) noexcept : total_pages_(total_pages) {}
  OverflowLender(const OverflowLender&) = delete;
  OverflowLender& operator=(const OverflowLender&) = delete;
  /// Requires: all overflow is returned.
  ~OverflowLender();

  /// Pages of overflow, lent or free.
  [[nodiscard]] std::size_t overflow() const noexcept {
    return overflow_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::size_t free_overflow() const noexcept;
  /// The maximum pages of overflow lent at a time.
  [[nodiscard]] std::size_t high_water() const noexcept;

  /// Reserves pages for one more thread. Errors: too large (the total).
  [[nodiscard]] Result<> allot(std::size_t quota, std::size_t overflow);
  /// The maximum pages of overflow the device can hold; grows, never shrinks.
  [[nodiscard]] std::size_t reach(const BounceDevice& device) const noexcept {
    return std::min(device.limit, overflow());
  }

  /// Returns `surplus` pages, and queues for `wanted` pages (0: leaves the queue).
  struct Demand {
    std::size_t surplus;
    std::size_t wanted;
    std::chrono::steady_clock::time_point since;
  };
  struct ExchangeResult {
    std::size_t handed;  ///< pages
    bool is_done;        ///< false: only collected an earlier grant
  };
  ExchangeResult exchange(BounceQueueEntry& entry, const Demand& demand) noexcept;
  /// Returns the pages granted meanwhile, and rearms the wake-up.
  [[nodiscard]] std::size_t collect(BounceQueueEntry& entry) noexcept;
  /// Sets the wake-up of the entry's thread.
  void set_wakeup(BounceQueueEntry& entry, BounceWakeup wakeup) noexcept;

  /// The length of the queue. Relaxed: every use of it takes the lock afterwards.
  [[nodiscard]] std::size_t queue_length() const noexcept {
    return queue_length_.load(std::memory_order_relaxed);
  }

 private:
  // Under the lock.
  void dequeue(BounceQueueEntry& entry) noexcept;
  void enqueue(BounceQueueEntry& entry) noexcept;
  void serve(const BounceQueueEntry& own) noexcept;

  const std::size_t total_pages_;
  // Written under the lock; read without it to avoid needless locking.
  std::atomic<std::size_t> queue_length_{0};
  std::atomic<std::size_t> overflow_{0};  // pages, lent or not
  mutable std::mutex mutex_;
  // protected by mutex_
  std::size_t allotted_ = 0;  // quotas and overflow
  std::size_t free_ = 0;      // of the overflow
  std::size_t high_water_ = 0;
  std::uint64_t walks_ = 0;
  boost::intrusive::list<BounceQueueEntry, boost::intrusive::constant_time_size<false>> queue_;
};

}  // namespace internal

/// Bounce memory shared by threads and devices: the total limit, and the overflow, lent to threads
/// above their quota.
///
///   total   | quota of thread 0 | quota of thread 1 | … |  overflow: lent, returned, lent again  |
///
/// Overflow is granted in the order of arrival. A smaller request never overtakes an earlier one.
/// Only accounts of a device at its own limit are passed over, so devices do not wait for each
/// other's limits. Waiting accounts hold no overflow, so they cannot deadlock.
///
/// Threads: any. Lifetime: outlives its trackers.
class BounceBudget {
 public:
  static constexpr ByteCount kUnlimited{std::numeric_limits<std::uint64_t>::max()};

  /// `total` bounds quotas and overflow of all trackers together.
  explicit BounceBudget(ByteCount total = kUnlimited) noexcept : lender_(total.raw() / kPageSize) {}
  BounceBudget(const BounceBudget&) = delete;
  BounceBudget& operator=(const BounceBudget&) = delete;
  /// Requires: all overflow is returned.
  ~BounceBudget() = default;

  /// Bytes of overflow, lent or free.
  [[nodiscard]] ByteCount overflow() const noexcept {
    return ByteCount(lender_.overflow() * kPageSize);
  }
  [[nodiscard]] ByteCount free_overflow() const noexcept {
    return ByteCount(lender_.free_overflow() * kPageSize);
  }
  /// The maximum overflow lent at a time.
  [[nodiscard]] ByteCount overflow_high_water() const noexcept {
    return ByteCount(lender_.high_water() * kPageSize);
  }

  /// For BounceBufferTracker.
  [[nodiscard]] internal::OverflowLender& lender() noexcept { return lender_; }

 private:
  internal::OverflowLender lender_;
};

}  // namespace guestio::buf
