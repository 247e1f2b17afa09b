// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_buffer_tracker.h"

#include <algorithm>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::buf {

BounceBufferTracker::BounceBufferTracker(const Options& options)
    : own_budget_(options.budget == nullptr ? std::make_unique<BounceBudget>() : nullptr),
      budget_(options.budget == nullptr ? *own_budget_ : *options.budget),
      device_(options.overflow_limit.raw() / kPageSize),
      pool_(ByteCount(0)) {}

BounceBufferTracker::~BounceBufferTracker() = default;

Result<std::unique_ptr<BounceBufferTracker>> BounceBufferTracker::create(ByteCount limit,
                                                                         std::size_t threads) {
  auto tracker = std::make_unique<BounceBufferTracker>(Options{});
  for (std::size_t i = 0; i < threads; ++i) {
    if (const auto added = tracker->add_account(BounceShare::of(limit)); !added) {
      return fail(added.error());
    }
  }
  return tracker;
}

Result<BounceAccount*> BounceBufferTracker::add_locked(const BounceShare& share) {
  const std::size_t quota = share.quota.raw() / kPageSize;
  const std::size_t overflow = share.overflow.raw() / kPageSize;
  if (auto allotted = budget_.lender().allot(quota, overflow); !allotted)
    return fail(allotted.error());
  allotted_ = ByteCount(allotted_.raw() + (quota + overflow) * kPageSize);
  if (auto reserved = pool_.reserve(allotted_); !reserved) return fail(reserved.error());
  accounts_.push_back(std::make_unique<BounceAccount>(budget_.lender(), device_, pool_, share));
  return accounts_.back().get();
}

Result<BounceAccount*> BounceBufferTracker::add_account(const BounceShare& share) {
  const std::lock_guard lock(mutex_);
  return add_locked(share);
}

BounceAccount& BounceBufferTracker::account(std::size_t thread) noexcept {
  const std::lock_guard lock(mutex_);
  GUESTIO_CHECK(thread < accounts_.size(), "an account for each thread");
  return *accounts_[thread];
}

std::size_t BounceBufferTracker::accounts() const noexcept {
  const std::lock_guard lock(mutex_);
  return accounts_.size();
}

Result<OpenBounceAccount> BounceBufferTracker::open_account(const BounceShare& share,
                                                            BounceWakeup wakeup) {
  const std::lock_guard lock(mutex_);
  BounceAccount* account = nullptr;
  for (const auto& known : accounts_) {
    if (known->share() == share && !known->is_open()) {
      account = known.get();
      break;
    }
  }
  if (account == nullptr) {
    const auto added = add_locked(share);
    if (!added) return fail(added.error());
    account = *added;
  }
  account->open(std::move(wakeup));
  return OpenBounceAccount(account);
}

BounceStatistics BounceBufferTracker::statistics() const noexcept {
  const std::lock_guard lock(mutex_);
  BounceStatistics sum;
  for (const auto& account : accounts_) {
    const BounceStatistics one = account->statistics();
    sum.grants += one.grants;
    sum.waits += one.waits;
    sum.cancelled += one.cancelled;
    sum.wait_time += one.wait_time;
    sum.longest_wait = std::max(sum.longest_wait, one.longest_wait);
    sum.high_water = ByteCount(sum.high_water.raw() + one.high_water.raw());
  }
  return sum;
}

}  // namespace guestio::buf
