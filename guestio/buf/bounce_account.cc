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

BounceAccount::BounceAccount(internal::OverflowLender& lender, internal::BounceDevice& device,
                             BouncePool& pool, const BounceShare& share) noexcept
    : quota_(pages_in(share.quota)),
      free_(quota_),
      // The thread's pages when all threads hold their shares.
      cache_(pool, ByteCount((pages_in(share.quota) + pages_in(share.overflow)) * kPageSize)),
      share_(share),
      lender_(lender),
      entry_(*this, device) {}

BounceAccount::~BounceAccount() {
  serve();
  GUESTIO_CHECK(waiters_.is_empty(), "no waiters in a bounce account at its end");
  GUESTIO_CHECK(held_pages() == 0, "all bounce buffers released before the end of their account");
}

void BounceAccount::open(BounceWakeup wakeup) {
  is_open_.store(true, std::memory_order_relaxed);
  lender_.set_wakeup(entry_, std::move(wakeup));
}

void BounceAccount::close() noexcept {
  serve();
  GUESTIO_CHECK(waiters_.is_empty() && held_pages() == 0,
                "a closed bounce account without waiters and buffers");
  lender_.set_wakeup(entry_, nullptr);
  is_open_.store(false, std::memory_order_release);
}

BounceStatistics BounceAccount::statistics() const noexcept {
  return {.grants = grants_.value(),
          .waits = waits_.value(),
          .cancelled = cancelled_.value(),
          .wait_time = std::chrono::nanoseconds(wait_nanoseconds_.value()),
          .longest_wait = std::chrono::nanoseconds(longest_wait_nanoseconds_.value()),
          .high_water = ByteCount(high_water_.value() * kPageSize)};
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
    settle();  // no waiters: leaves the queue
    return fail(ErrorKind::kBusy, "bounce memory");
  }
  return grant(size, options.alignment);
}

bool BounceAccount::take_with_overflow(std::size_t pages, Clock::time_point since) noexcept {
  while (pages > free_) {
    const std::size_t wanted = pages - free_;
    // Pages of the quota in use must be released first.
    if (wanted > lender_.reach(entry_.device)) return false;
    const auto result = lender_.exchange(entry_, {0, wanted, since});
    add_borrowed(result.handed);
    requested_ = result.handed == 0 ? wanted : 0;
    requested_since_ = since;
    if (result.handed == 0) return false;
  }
  free_ -= pages;
  return true;
}

bool BounceAccount::may_serve_own() noexcept {
  const std::size_t own = requested_ != 0 ? 1 : 0;
  if (borrowed_ == 0 || lender_.queue_length() <= own) {
    overtakes_ = 0;
    return true;
  }
  if (overtakes_ == kMaxOvertakes) return false;
  ++overtakes_;
  return true;
}

void BounceAccount::count_wait(Clock::time_point since) noexcept {
  const auto waited = std::chrono::nanoseconds(Clock::now() - since).count();
  wait_nanoseconds_ += static_cast<std::uint64_t>(waited);
  longest_wait_nanoseconds_.raise_to(static_cast<std::uint64_t>(waited));
}

void BounceAccount::serve(Acquire& waiter) noexcept {
  free_ -= waiter.pages_;
  waiter.state_ = Acquire::State::kServed;
  count_wait(waiter.since_);
  waiters_.wake(waiter);
}

void BounceAccount::abandon(const Acquire& waiter) noexcept {
  ++cancelled_;
  count_wait(waiter.since_);
  settle();
}

bool BounceAccount::exchange() noexcept {
  const Acquire* const waiter = longest_waiter();
  const std::size_t needed = waiter != nullptr ? waiter->pages_ : 0;
  const std::size_t surplus = std::min(free_, borrowed_);
  const std::size_t left = free_ - surplus;
  std::size_t wanted = needed > left ? needed - left : 0;
  // More than the device's limit: pages of the quota in use must be released first.
  if (wanted > lender_.reach(entry_.device)) wanted = 0;
  const auto since = waiter != nullptr ? waiter->since_ : Clock::time_point();
  // The same number of pages for another waiter is another, later entry in the queue.
  const bool same = wanted == requested_ && (wanted == 0 || since == requested_since_);
  if (surplus == 0 && same) return false;
  const auto result = lender_.exchange(entry_, {surplus, wanted, since});
  requested_ = result.handed == 0 ? wanted : 0;
  requested_since_ = since;
  if (result.is_done && surplus != 0) {
    overtakes_ = 0;
    free_ -= surplus;
    borrowed_ -= surplus;
  }
  add_borrowed(result.handed);
  return !result.is_done || (needed != 0 && needed <= free_);
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
  const std::size_t handed = lender_.collect(entry_);
  if (handed != 0) requested_ = 0;
  add_borrowed(handed);
  settle();
}

BounceAccount::Acquire::~Acquire() {
  switch (state_) {
    case State::kWaiting:
      unlink();
      account_.abandon(*this);
      break;
    case State::kServed:
      // Woken, and destroyed before it ran.
      unlink();
      account_.return_pages(pages_);
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
  ++account_.waits_;
  Waiter::await_suspend(handle);
  return true;
}

Result<TrackedBounceBuffer> BounceAccount::Acquire::await_resume() noexcept {
  const State state = std::exchange(state_, State::kOver);
  switch (state) {
    case State::kServed: return account_.grant(size_, options_.alignment);
    case State::kTooLarge:
      return fail(ErrorKind::kTooLarge, "bounce memory", size_, account_.max_grant());
    case State::kWaiting: account_.abandon(*this); break;
    case State::kNew:
    case State::kCancelled:
    case State::kOver: break;
  }
  return fail(ErrorKind::kCancelled, "wait for bounce memory");
}

}  // namespace guestio::buf
