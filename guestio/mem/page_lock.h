// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "guestio/mem/backing.h"

namespace guestio::mem {

namespace internal {
struct LockBuilder;
}

/// Keeps guest memory in place for the kernel's use until it goes away. Made by GuestMemory::lock()
/// and empty for memory that needs no holding, which costs nothing.
///
/// Lifetime: the GuestMemory that it came from, or a copy of it, must outlive the use of the
/// segments: whoever submits I/O keeps a copy beside this.
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

 private:
  friend struct internal::LockBuilder;

  struct Held {
    std::shared_ptr<Backing> backing;
    std::uint64_t offset;
    std::uint64_t length;
  };

  std::unique_ptr<std::vector<Held>> held_;
};

}  // namespace guestio::mem
