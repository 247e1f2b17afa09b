// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "guestio/base/check.h"
#include "guestio/base/error.h"
#include "guestio/base/mapping.h"

namespace guestio::buf {

class BouncePool;

/// Bounce pages lent by a pool, given back when it goes away. It remembers its own pages, so what
/// is given back is always what was taken. Not zeroed: it may hold bytes of earlier requests, so
/// only what was read from the disk since may be shown to a guest.
class [[nodiscard]] BounceGrant {
 public:
  BounceGrant() noexcept = default;
  BounceGrant(BounceGrant&& other) noexcept;
  BounceGrant& operator=(BounceGrant&& other) noexcept;
  BounceGrant(const BounceGrant&) = delete;
  BounceGrant& operator=(const BounceGrant&) = delete;
  ~BounceGrant();

  /// Bytes, as asked for.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Calls `visit(std::span<std::byte>)` for each run of adjacent host bytes that makes up
  /// [offset, offset + size) of the grant, in order. Runs start and end at BouncePool::kUnit
  /// boundaries but for the ends of the range. Requires: the range lies inside.
  template <typename Visit>
  void for_each_slice(std::size_t offset, std::size_t size, Visit visit) const;

 private:
  friend class BouncePool;
  BounceGrant(BouncePool& pool, std::uint32_t first_unit, std::size_t size) noexcept
      : pool_(&pool), first_unit_(first_unit), size_(size) {}

  BouncePool* pool_ = nullptr;
  std::uint32_t first_unit_ = 0;
  std::size_t size_ = 0;
};

/// Bounce memory of one thread: a slab of page-aligned units made once, and a line of those who
/// wait for some. First come, first served: nobody overtakes, so nobody starves; a big request at
/// the head makes the rest wait.
///
/// Threads: one; waiters are resumed from inside the release that makes room for them.
/// Lifetime: outlives its grants and waiters (checked).
class BouncePool {
 public:
  static constexpr std::size_t kUnit = kPageSize;

  class Acquire;

  /// `limit` is rounded down to whole units; at least one. Errors: too large, host.
  static Result<std::unique_ptr<BouncePool>> create(ByteCount limit);
  BouncePool(const BouncePool&) = delete;
  BouncePool& operator=(const BouncePool&) = delete;
  ~BouncePool();

  /// Awaits `size` bytes: `Result<BounceGrant> grant = co_await pool.acquire(size);`. Size 0 is
  /// granted at once. Errors: too large, at once, when the whole pool could not hold it. A waiter
  /// that is destroyed leaves no trace.
  [[nodiscard]] Acquire acquire(std::size_t size) noexcept;
  /// The same without waiting. Errors: too large; busy when it would have to wait.
  Result<BounceGrant> try_acquire(std::size_t size) noexcept;

  [[nodiscard]] std::size_t limit() const noexcept { return units_ * kUnit; }
  [[nodiscard]] std::size_t free_bytes() const noexcept { return free_units_ * kUnit; }
  [[nodiscard]] std::size_t high_water_bytes() const noexcept { return high_water_units_ * kUnit; }
  /// How many requests had to wait so far.
  [[nodiscard]] std::uint64_t waits() const noexcept { return waits_; }

 private:
  friend class BounceGrant;
  using Hook =
      boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>>;
  struct Waiter : Hook {
    std::size_t size = 0;
    std::coroutine_handle<> handle;
    BounceGrant grant;
  };

  BouncePool(Mapping slab, std::size_t units);

  static std::size_t units_for(std::size_t size) noexcept { return (size + kUnit - 1) / kUnit; }
  [[nodiscard]] std::byte* unit_address(std::uint32_t unit) const noexcept {
    return slab_.data() + std::size_t{unit} * kUnit;
  }
  BounceGrant take(std::size_t size) noexcept;
  void release(std::uint32_t first_unit, std::size_t size) noexcept;
  void serve_waiters() noexcept;

  Mapping slab_;
  const std::size_t units_;
  std::size_t free_units_;
  std::size_t high_water_units_ = 0;
  std::uint64_t waits_ = 0;
  std::vector<std::uint64_t> free_map_;       // one bit a unit, set when free
  std::vector<std::uint32_t> next_in_grant_;  // units of one grant, linked in order
  boost::intrusive::list<Waiter, boost::intrusive::constant_time_size<false>> waiters_;
  bool serving_ = false;
};

/// The awaitable of BouncePool::acquire(); lives in the awaiting coroutine.
class [[nodiscard]] BouncePool::Acquire {
 public:
  Acquire(BouncePool& pool, std::size_t size) noexcept : pool_(pool) { waiter_.size = size; }
  Acquire(const Acquire&) = delete;
  Acquire& operator=(const Acquire&) = delete;

  [[nodiscard]] bool await_ready() noexcept;
  void await_suspend(std::coroutine_handle<> handle) noexcept;
  Result<BounceGrant> await_resume() noexcept;

 private:
  BouncePool& pool_;
  Waiter waiter_;
  bool too_large_ = false;
};

template <typename Visit>
void BounceGrant::for_each_slice(std::size_t offset, std::size_t size, Visit visit) const {
  if (size == 0) return;
  GUESTIO_CHECK(fits_within(offset, size, size_), "a range inside the grant");
  std::uint32_t unit = first_unit_;
  for (; offset >= BouncePool::kUnit; offset -= BouncePool::kUnit)
    unit = pool_->next_in_grant_[unit];
  while (size != 0) {
    // One run: units that follow each other in the grant and in memory.
    std::byte* const start = pool_->unit_address(unit) + offset;
    std::size_t run = BouncePool::kUnit - offset;
    while (run < size) {
      const std::uint32_t next = pool_->next_in_grant_[unit];
      const bool adjacent = next == unit + 1;
      unit = next;
      if (!adjacent) break;
      run += BouncePool::kUnit;
    }
    if (run > size) run = size;
    visit(std::span(start, run));
    size -= run;
    offset = 0;
  }
}

}  // namespace guestio::buf
