// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/mem/backing.h"

namespace guestio::mem {

/// Locks guest memory in place for use by the kernel, for its own lifetime. Made by
/// GuestMemory::lock(). Empty, without cost, for memory that needs no page lock.
///
/// Lifetime: a copy of the locked GuestMemory outlives the use of the segments: keep one beside
/// this until the I/O has completed.
class [[nodiscard]] PageLock {
 public:
  PageLock() noexcept = default;
  PageLock(PageLock&&) noexcept = default;
  PageLock& operator=(PageLock&& other) noexcept {
    if (this != &other) {
      release();
      held_ = std::move(other.held_);
    }
    return *this;
  }
  ~PageLock() { release(); }

  /// Unlocks now.
  void release() noexcept {
    if (held_ == nullptr) [[likely]]
      return;
    for (const Held& held : *held_) held.backing->unlock_pages(held.offset, held.length);
    held_.reset();
  }

  /// Locks these bytes of `backing` too. For GuestMemory::lock(). Errors: those of
  /// Backing::lock_pages(); the bytes are then not locked.
  [[nodiscard]] Result<> add(const std::shared_ptr<Backing>& backing, std::uint64_t offset,
                             std::uint64_t length) {
    // Recorded first: nothing may fail between a successful lock and its record.
    if (held_ == nullptr) held_ = std::make_unique<std::vector<Held>>();
    held_->push_back({backing, offset, length});
    const Result<> locked = backing->lock_pages(offset, length);
    if (!locked) held_->pop_back();
    return locked;
  }

 private:
  struct Held {
    std::shared_ptr<Backing> backing;
    std::uint64_t offset;
    std::uint64_t length;
  };

  std::unique_ptr<std::vector<Held>> held_;
};

}  // namespace guestio::mem
