// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_account.h"

#include <algorithm>

#include "guestio/base/check.h"

namespace guestio::buf {

namespace {

std::size_t pages_in(ByteCount bytes) noexcept { return bytes.raw() / kPageSize; }

}  // namespace

BounceShare BounceShare::of(ByteCount limit) noexcept {
  const std::uint64_t pages = std::max<std::uint64_t>(pages_in(limit), 1);
  const std::uint64_t quota = (pages + 1) / 2;
  return {ByteCount(quota * kPageSize), ByteCount((pages - quota) * kPageSize)};
}

BounceAccount::BounceAccount(BounceBudget& budget, internal::BounceDevice& device, BouncePool& pool,
                             const BounceShare& share) noexcept
    : quota_(pages_in(share.quota)),
      free_(quota_),
      // As much as the thread holds when all threads hold their shares.
      cache_(pool, ByteCount((pages_in(share.quota) + pages_in(share.overflow)) * kPageSize)),
      share_(share),
      budget_(budget),
      place_(*this, device) {}

BounceAccount::~BounceAccount() {
  serve();
  GUESTIO_CHECK(waiters_.is_empty(), "nobody waiting for a bounce account that goes away");
  GUESTIO_CHECK(held_pages() == 0, "every bounce buffer back before its account goes away");
}

void BounceAccount::open(BounceWakeup call) { budget_.set_call(place_, std::move(call)); }

void BounceAccount::close() noexcept {
  serve();
  GUESTIO_CHECK(waiters_.is_empty() && held_pages() == 0,
                "a quiet bounce account when it is closed");
  budget_.set_call(place_, nullptr);
  is_open_.store(false, std::memory_order_release);
}

BounceStatistics BounceAccount::statistics() const noexcept {
  return {.grants = grants_.get(),
          .waits = waits_.get(),
          .cancelled = cancelled_.get(),
          .wait_time = std::chrono::nanoseconds(wait_nanoseconds_.get()),
          .longest_wait = std::chrono::nanoseconds(longest_wait_nanoseconds_.get()),
          .high_water = ByteCount(high_water_.get() * kPageSize)};
}

BounceAccount::Acquire* BounceAccount::longest_waiter() noexcept {
  return static_cast<Acquire*>(waiters_.front());
}

Result<TrackedBounceBuffer> BounceAccount::try_acquire_slow_path(std::size_t size,
                                                                 const AcquireOptions& options) {
  if (size > max_grant() && options.oversize == Oversize::kTruncate) size = max_grant();
  if (size > max_grant()) return fail(ErrorKind::kTooLarge, "bounce memory", size, max_grant());
  if (size == 0) return grant(0, options.alignment);
  const std::size_t pages = internal::pages_for(size);
  if (!waiters_.is_empty()) return fail(ErrorKind::kBusy, "bounce memory");
  if (!take_with_overflow(pages, Clock::now())) {
    settle();  // nobody waits: leaves the line
    return fail(ErrorKind::kBusy, "bounce memory");
  }
  return grant(size, options.alignment);
}

bool BounceAccount::take_with_overflow(std::size_t pages, Clock::time_point since) noexcept {
  while (pages > free_) {
    const std::size_t wanted = pages - free_;
    // What is in use of the quota has to come back first.
    if (wanted > budget_.reach(place_.device)) return false;
    const BounceBudget::Answer answer = budget_.exchange(place_, {0, wanted, since});
    add_borrowed(answer.handed);
    asked_ = answer.handed == 0 ? wanted : 0;
    asked_since_ = since;
    if (answer.handed == 0) return false;
  }
  free_ -= pages;
  return true;
}

bool BounceAccount::may_serve_own() noexcept {
  const std::size_t own = asked_ != 0 ? 1 : 0;
  if (borrowed_ == 0 || budget_.in_line() <= own) {
    overtakes_ = 0;
    return true;
  }
  if (overtakes_ == kMaxOvertakes) return false;
  ++overtakes_;
  return true;
}

void BounceAccount::count_wait(Clock::time_point since) noexcept {
  const auto waited = std::chrono::nanoseconds(Clock::now() - since).count();
  wait_nanoseconds_.add(static_cast<std::uint64_t>(waited));
  longest_wait_nanoseconds_.raise_to(static_cast<std::uint64_t>(waited));
}

void BounceAccount::serve(Acquire& waiter) noexcept {
  free_ -= waiter.pages_;
  waiter.state_ = Acquire::State::kServed;
  count_wait(waiter.since_);
  waiters_.wake(waiter);
}

void BounceAccount::give_up(const Acquire& waiter) noexcept {
  cancelled_.add(1);
  count_wait(waiter.since_);
  settle();
}

bool BounceAccount::exchange() noexcept {
  const Acquire* const waiter = longest_waiter();
  const std::size_t needed = waiter != nullptr ? waiter->pages_ : 0;
  const std::size_t surplus = std::min(free_, borrowed_);
  const std::size_t left = free_ - surplus;
  std::size_t wanted = needed > left ? needed - left : 0;
  // More than there ever is: some of the quota is in use and has to come back first.
  if (wanted > budget_.reach(place_.device)) wanted = 0;
  const auto since = waiter != nullptr ? waiter->since_ : Clock::time_point();
  // As many pages for somebody else is another place in the line: his own, further back.
  const bool same = wanted == asked_ && (wanted == 0 || since == asked_since_);
  if (surplus == 0 && same) return false;
  const BounceBudget::Answer answer = budget_.exchange(place_, {surplus, wanted, since});
  asked_ = answer.handed == 0 ? wanted : 0;
  asked_since_ = since;
  if (answer.is_done && surplus != 0) {
    overtakes_ = 0;
    free_ -= surplus;
    borrowed_ -= surplus;
  }
  add_borrowed(answer.handed);
  return !answer.is_done || (needed != 0 && needed <= free_);
}

void BounceAccount::settle() noexcept {
  while (true) {
    Acquire* const waiter = longest_waiter();
    if (waiter != nullptr && waiter->pages_ <= free_ && may_serve_own()) {
      serve(*waiter);
    } else if (!exchange()) {
      return;
    }
  }
}

void BounceAccount::serve() noexcept {
  const std::size_t handed = budget_.collect(place_);
  if (handed != 0) asked_ = 0;
  add_borrowed(handed);
  settle();
}

BounceAccount::Acquire::~Acquire() {
  switch (state_) {
    case State::kWaiting:
      unlink();
      account_.give_up(*this);
      break;
    case State::kServed:
      // Woken, and destroyed before it could run.
      unlink();
      account_.give_back(pages_);
      break;
    case State::kNew:
    case State::kTooLarge:
    case State::kCancelled:
    case State::kOver: break;
  }
}

bool BounceAccount::Acquire::await_ready() noexcept {
  const std::size_t max_grant = account_.max_grant();
  if (size_ > max_grant && options_.oversize == Oversize::kTruncate) size_ = max_grant;
  pages_ = internal::pages_for(size_);
  if (size_ > max_grant) {
    state_ = State::kTooLarge;
    return true;
  }
  if (pages_ == 0 || (pages_ <= account_.free_ && account_.waiters_.is_empty())) [[likely]] {
    account_.free_ -= pages_;
    state_ = State::kServed;
    return true;
  }
  if (options_.token.stop_requested()) {
    state_ = State::kCancelled;
    return true;
  }
  return false;
}

bool BounceAccount::Acquire::await_suspend(std::coroutine_handle<> handle) noexcept {
  since_ = Clock::now();
  if (account_.waiters_.is_empty() && account_.take_with_overflow(pages_, since_)) {
    state_ = State::kServed;
    return false;
  }
  state_ = State::kWaiting;
  account_.waits_.add(1);
  Waiter::await_suspend(handle);
  return true;
}

Result<TrackedBounceBuffer> BounceAccount::Acquire::await_resume() noexcept {
  const State state = std::exchange(state_, State::kOver);
  switch (state) {
    case State::kServed: return account_.grant(size_, options_.alignment);
    case State::kTooLarge:
      return fail(ErrorKind::kTooLarge, "bounce memory", size_, account_.max_grant());
    case State::kWaiting: account_.give_up(*this); break;
    case State::kNew:
    case State::kCancelled:
    case State::kOver: break;
  }
  return fail(ErrorKind::kCancelled, "wait for bounce memory");
}

}  // namespace guestio::buf
