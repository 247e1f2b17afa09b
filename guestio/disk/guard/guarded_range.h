// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>

#include "guestio/disk/guard/block_guard.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// A coroutine's claim on a byte range of the disk; the destructor releases it:
///
///     GuardedRange guarded(guard, loop, offset, length, kind);
///     co_await guarded.claim();
///
/// Threads: its loop's, which resumes the coroutine; other threads may use the guard.
class GuardedRange final : private BlockGuard::Claim {
 public:
  GuardedRange(BlockGuard& guard, uring::Loop& loop, FileOffset start, std::uint64_t length,
               BlockGuard::Kind kind) noexcept
      : Claim(start, length, kind), guard_(guard), loop_(loop) {}
  ~GuardedRange() {
    if (is_claimed_) guard_.release(*this);
  }

  class Awaiter {
   public:
    explicit Awaiter(GuardedRange& range) noexcept : range_(range) {}
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiting) noexcept {
      range_.waiting_ = waiting;
      range_.is_claimed_ = true;
      return !range_.guard_.claim(range_);
    }
    void await_resume() const noexcept {}

   private:
    GuardedRange& range_;
  };
  /// Waits for conflicting claims. Once.
  [[nodiscard]] Awaiter claim() noexcept { return Awaiter(*this); }

 private:
  void on_granted() noexcept override {
    loop_.post([waiting = waiting_] { waiting.resume(); });
  }

  BlockGuard& guard_;
  uring::Loop& loop_;
  std::coroutine_handle<> waiting_;
  bool is_claimed_ = false;
};

}  // namespace guestio::disk
