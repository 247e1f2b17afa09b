// SPDX-License-Identifier: MIT
#include "guestio/buf/bounce_pool.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace guestio::buf {

namespace {

constexpr unsigned kBitsPerWord = 64;

}  // namespace

BounceGrant::BounceGrant(BounceGrant&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      first_unit_(other.first_unit_),
      size_(std::exchange(other.size_, 0)) {}

BounceGrant& BounceGrant::operator=(BounceGrant&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(first_unit_, other.first_unit_);
  std::swap(size_, other.size_);
  return *this;
}

BounceGrant::~BounceGrant() {
  if (pool_ != nullptr && size_ != 0) pool_->release(first_unit_, size_);
}

Result<std::unique_ptr<BouncePool>> BouncePool::create(ByteCount limit) {
  const std::uint64_t units = std::max<std::uint64_t>(limit.raw() / kUnit, 1);
  if (units >= std::numeric_limits<std::uint32_t>::max()) {
    return fail(ErrorKind::kTooLarge, "bounce pool", limit.raw(),
                std::numeric_limits<std::uint32_t>::max() * kUnit);
  }
  auto slab = Mapping::anonymous(units * kUnit);
  if (!slab) return fail(slab.error());
  return std::unique_ptr<BouncePool>(new BouncePool(std::move(*slab), units));
}

BouncePool::BouncePool(Mapping slab, std::size_t units)
    : slab_(std::move(slab)),
      units_(units),
      free_units_(units),
      free_map_((units + kBitsPerWord - 1) / kBitsPerWord, ~std::uint64_t{0}),
      next_in_grant_(units) {
  const unsigned rest = units % kBitsPerWord;
  if (rest != 0) free_map_.back() = (std::uint64_t{1} << rest) - 1;
}

BouncePool::~BouncePool() {
  GUESTIO_CHECK(free_units_ == units_, "every grant back before its pool goes away");
  GUESTIO_CHECK(waiters_.empty(), "nobody waiting for a pool that goes away");
}

BouncePool::Acquire BouncePool::acquire(std::size_t size) noexcept { return {*this, size}; }

Result<BounceGrant> BouncePool::try_acquire(std::size_t size) noexcept {
  if (size > limit()) return fail(ErrorKind::kTooLarge, "bounce memory", size, limit());
  if (size == 0) return BounceGrant();
  if (!waiters_.empty() || units_for(size) > free_units_) {
    return fail(ErrorKind::kBusy, "bounce memory");
  }
  return take(size);
}

/// Requires: the units are free. Takes the lowest ones, so that grants tend to be contiguous.
BounceGrant BouncePool::take(std::size_t size) noexcept {
  std::size_t wanted = units_for(size);
  free_units_ -= wanted;
  high_water_units_ = std::max(high_water_units_, units_ - free_units_);
  std::uint32_t first = 0;
  std::uint32_t* link = &first;
  for (std::size_t word = 0; wanted != 0; ++word) {
    std::uint64_t bits = free_map_[word];
    for (; bits != 0 && wanted != 0; --wanted) {
      const auto bit = static_cast<std::uint32_t>(std::countr_zero(bits));
      bits &= bits - 1;
      const auto unit = static_cast<std::uint32_t>(word * kBitsPerWord + bit);
      *link = unit;
      link = &next_in_grant_[unit];
    }
    free_map_[word] = bits;
  }
  return {*this, first, size};
}

void BouncePool::release(std::uint32_t first_unit, std::size_t size) noexcept {
  const std::size_t count = units_for(size);
  std::uint32_t unit = first_unit;
  for (std::size_t i = 0; i < count; ++i) {
    free_map_[unit / kBitsPerWord] |= std::uint64_t{1} << (unit % kBitsPerWord);
    unit = next_in_grant_[unit];
  }
  free_units_ += count;
  serve_waiters();
}

void BouncePool::serve_waiters() noexcept {
  // A resumed waiter may release or acquire again; the outer call goes on with what changed.
  if (serving_) return;
  serving_ = true;
  while (!waiters_.empty() && units_for(waiters_.front().size) <= free_units_) {
    Waiter& waiter = waiters_.front();
    waiters_.pop_front();
    waiter.grant = take(waiter.size);
    waiter.handle.resume();
  }
  serving_ = false;
}

bool BouncePool::Acquire::await_ready() noexcept {
  auto granted = pool_.try_acquire(waiter_.size);
  if (granted) {
    waiter_.grant = std::move(*granted);
    return true;
  }
  too_large_ = granted.error().kind == ErrorKind::kTooLarge;
  return too_large_;
}

void BouncePool::Acquire::await_suspend(std::coroutine_handle<> handle) noexcept {
  waiter_.handle = handle;
  pool_.waiters_.push_back(waiter_);
  ++pool_.waits_;
}

Result<BounceGrant> BouncePool::Acquire::await_resume() noexcept {
  if (too_large_) return fail(ErrorKind::kTooLarge, "bounce memory", waiter_.size, pool_.limit());
  return std::move(waiter_.grant);
}

}  // namespace guestio::buf
