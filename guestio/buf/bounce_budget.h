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
class BounceBufferTracker;

/// Has BounceAccount::serve() called on the account's thread.
using BounceWakeup = std::function<void(BounceAccount&)>;

namespace internal {

/// What one tracker has of the budget. Protected by the budget's lock but for the limit.
struct BounceDevice {
  explicit BounceDevice(std::size_t pages) noexcept : limit(pages) {}

  const std::size_t limit;        ///< pages of overflow that its threads may hold
  std::size_t used = 0;           ///< pages of overflow that they hold
  std::uint64_t passed_over = 0;  ///< the last walk of the line that found it at its limit
};

/// An account's place in the line for overflow: what its longest waiter lacks. Protected by the
/// budget's lock but for the references.
struct BouncePlace
    : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::safe_link>> {
  BouncePlace(BounceAccount& of, BounceDevice& belongs_to) noexcept
      : account(of), device(belongs_to) {}

  BounceAccount& account;
  BounceDevice& device;
  std::chrono::steady_clock::time_point since;  ///< when its waiter came: the order of the line
  std::size_t wanted = 0;                       ///< pages; the place is in the line when not 0
  std::size_t handed = 0;                       ///< pages that it was given and has not collected
  bool is_called = false;                       ///< `call` has been used, collect() has not come
  BounceWakeup call;                            ///< has its thread collect
};

}  // namespace internal

/// Bounce memory that threads and devices share: what is allowed in total, and the overflow, which
/// is lent to whoever's own quota does not do.
///
///   total   | quota of thread 0 | quota of thread 1 | … |  overflow: lent, returned, lent again  |
///
/// Overflow goes to those who wait for it in the order in which they began to wait. Nobody behind
/// is served before the one in front, however much less he wants; only who is held up by the limit
/// of his own device is passed over, with the others of that device, so that devices do not wait
/// for each other's limits. Waiting accounts hold no overflow, so they cannot block each other.
///
/// Threads: any. Lifetime: outlives its trackers.
class BounceBudget {
 public:
  static constexpr ByteCount kUnlimited{std::numeric_limits<std::uint64_t>::max()};

  /// `total` bounds quotas and overflow of all trackers together.
  explicit BounceBudget(ByteCount total = kUnlimited) noexcept
      : total_pages_(total.raw() / kPageSize) {}
  BounceBudget(const BounceBudget&) = delete;
  BounceBudget& operator=(const BounceBudget&) = delete;
  /// Requires: all overflow is back.
  ~BounceBudget();

  /// Bytes of overflow, lent or not.
  [[nodiscard]] ByteCount overflow() const noexcept;
  [[nodiscard]] ByteCount free_overflow() const noexcept;
  /// The most overflow that was lent at a time.
  [[nodiscard]] ByteCount overflow_high_water() const noexcept;

 private:
  friend class BounceAccount;
  friend class BounceBufferTracker;
  using Device = internal::BounceDevice;
  using Place = internal::BouncePlace;

  /// Sets pages aside for one more thread. Errors: too large (the total).
  [[nodiscard]] Result<> allot(std::size_t quota, std::size_t overflow);
  /// The most pages of overflow that the device can ever hold; grows, never shrinks.
  [[nodiscard]] std::size_t reach(const Device& device) const noexcept {
    return std::min(device.limit, overflow_.load(std::memory_order_relaxed));
  }

  /// Returns `surplus` pages, and asks for `wanted` from now on (0: leaves the line).
  struct Demand {
    std::size_t surplus;
    std::size_t wanted;
    std::chrono::steady_clock::time_point since;
  };
  struct Answer {
    std::size_t handed;  ///< pages
    bool is_done;        ///< false: something had been handed before, and nothing else was done
  };
  Answer exchange(Place& place, const Demand& demand) noexcept;
  /// What was handed since; ends the call.
  [[nodiscard]] std::size_t collect(Place& place) noexcept;
  /// Who calls the place's thread from now on.
  void set_call(Place& place, BounceWakeup call) noexcept;

  /// How many are in the line. Relaxed: whoever acts on it takes the lock.
  [[nodiscard]] std::size_t in_line() const noexcept {
    return in_line_.load(std::memory_order_relaxed);
  }

  // Under the lock.
  void leave(Place& place) noexcept;
  void join(Place& place) noexcept;
  void serve(const Place& own) noexcept;

  const std::size_t total_pages_;
  // Written under the lock; read without it by those who would otherwise take it for nothing.
  std::atomic<std::size_t> in_line_{0};
  std::atomic<std::size_t> overflow_{0};  // pages, lent or not
  mutable std::mutex mutex_;
  // protected by mutex_
  std::size_t allotted_ = 0;  // quotas and overflow
  std::size_t free_ = 0;      // of the overflow
  std::size_t high_water_ = 0;
  std::uint64_t walks_ = 0;
  boost::intrusive::list<Place, boost::intrusive::constant_time_size<false>> line_;
};

}  // namespace guestio::buf
