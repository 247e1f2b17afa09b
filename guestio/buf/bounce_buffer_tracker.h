// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_budget.h"
#include "guestio/buf/bounce_pool.h"

namespace guestio::buf {

/// The bounce memory of one device: an account for each thread, and a share of a budget.
///
///     auto tracker = BounceBufferTracker::create(BounceBufferTracker::kDefaultLimit, threads);
///     BounceAccount& account = (*tracker)->account(this_thread);
///     const AcquireOptions options;
///     auto bounce = co_await account.acquire(131072, options);
///
/// Each thread has a quota of its own, used without synchronization. Beyond it, threads of all
/// devices of a budget borrow from a common overflow, in the order of arrival. An idle thread's
/// share serves a busy one, and every thread keeps its quota. The quotas and the overflow limit
/// bound one device, the budget bounds all.
///
/// Fairness on one thread: strictly FIFO; a small request never overtakes an earlier one. Between
/// threads, requests for overflow are served in the order of arrival, with two bounded exceptions.
/// A thread serves its own waiters from its own quota. A thread with overflow may pass it to at
/// most kMaxOvertakes of its own requests in a row while others wait. A woken waiter has its pages:
/// there are no spurious wake-ups.
///
/// Threads: create(), account(), add_account(), open_account() and statistics() any; an account
/// belongs to one. Lifetime: outlives accounts in use and their buffers (checked).
class BounceBufferTracker {
 public:
  static constexpr unsigned kMaxOvertakes = BounceAccount::kMaxOvertakes;
  /// The default for each thread.
  static constexpr ByteCount kDefaultLimit{std::uint64_t{8} << 20};

  struct Options {
    /// The lender of overflow; nullptr: the tracker has a budget of its own.
    BounceBudget* budget = nullptr;
    /// The maximum overflow of this device, whatever the budget has.
    ByteCount overflow_limit = BounceBudget::kUnlimited;
  };

  /// `limit` for each of `threads` threads, as shares of BounceShare::of(limit).
  /// Errors: too large, host.
  [[nodiscard]] static Result<std::unique_ptr<BounceBufferTracker>> create(ByteCount limit,
                                                                           std::size_t threads);
  explicit BounceBufferTracker(const Options& options);
  BounceBufferTracker(const BounceBufferTracker&) = delete;
  BounceBufferTracker& operator=(const BounceBufferTracker&) = delete;
  ~BounceBufferTracker();

  /// Adds an account for one more thread, for the life of the tracker, and maps its memory.
  /// Errors: too large (the budget's total), host.
  [[nodiscard]] Result<BounceAccount*> add_account(const BounceShare& share);
  /// Requires: thread < accounts().
  [[nodiscard]] BounceAccount& account(std::size_t thread) noexcept;
  [[nodiscard]] std::size_t accounts() const noexcept;

  /// For temporary threads: opens a closed account, or adds one. `wakeup` is as for
  /// BounceAccount::open(). Errors: as add_account().
  [[nodiscard]] Result<OpenBounceAccount> open_account(const BounceShare& share,
                                                       BounceWakeup wakeup);

  /// The sum over all accounts. high_water is an upper bound of the bytes held at a time.
  [[nodiscard]] BounceStatistics statistics() const noexcept;
  [[nodiscard]] const BounceBudget& budget() const noexcept { return budget_; }

 private:
  [[nodiscard]] Result<BounceAccount*> add_locked(const BounceShare& share);

  std::unique_ptr<BounceBudget> own_budget_;
  BounceBudget& budget_;
  internal::BounceDevice device_;
  BouncePool pool_;
  mutable std::mutex mutex_;
  // protected by mutex_
  ByteCount allotted_;
  std::vector<std::unique_ptr<BounceAccount>> accounts_;
};

}  // namespace guestio::buf
