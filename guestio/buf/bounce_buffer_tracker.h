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
///     auto acquiring = account.acquire(131072);
///     auto bounce = co_await acquiring;
///
/// Each thread has a quota of its own, which it uses without asking anybody; what goes beyond it
/// is lent from the overflow that the threads of all devices of a budget share, in the order of
/// arrival. So an idle thread's share serves a busy one, and a busy one never leaves another with
/// less than its quota. What a device holds is bounded by its quotas and its overflow limit, what
/// all hold by the budget.
///
/// Fairness. On one thread, first come, first served, without exception: nobody is overtaken by a
/// request that came later, however small. Between threads, requests that need overflow are served
/// in the order of arrival, but for two things, both bounded: a thread serves its own waiters from
/// its own quota; and one that holds overflow may hand it on to at most kMaxOvertakes requests of
/// its own in a row while others wait. Who is woken has what he asked for: nobody is woken to look.
///
/// Threads: create(), account(), add_account(), open_account() and statistics() any; an account
/// belongs to one. Lifetime: outlives accounts in use and their buffers (checked).
class BounceBufferTracker {
 public:
  static constexpr unsigned kMaxOvertakes = BounceAccount::kMaxOvertakes;
  /// For each thread, where nobody has a reason for another number.
  static constexpr ByteCount kDefaultLimit{std::uint64_t{8} << 20};

  struct Options {
    /// What lends overflow; nullptr: the tracker has a budget of its own.
    BounceBudget* budget = nullptr;
    /// The most overflow that this device holds, whatever the budget has.
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

  /// An account for one more thread, which stays as long as the tracker, and maps memory for it.
  /// Errors: too large (the budget's total), host.
  [[nodiscard]] Result<BounceAccount*> add_account(const BounceShare& share);
  /// Requires: thread < accounts().
  [[nodiscard]] BounceAccount& account(std::size_t thread) noexcept;
  [[nodiscard]] std::size_t accounts() const noexcept;

  /// For threads that come and go: an account that nobody has open, or a new one. `call` is as for
  /// BounceAccount::open(). Errors: as add_account().
  [[nodiscard]] Result<OpenBounceAccount> open_account(const BounceShare& share, BounceWakeup call);

  /// The sum over all accounts; of high_water, an upper bound of what was held at a time.
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
