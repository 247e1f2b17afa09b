// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <cstdint>

#include "guestio/base/check.h"
#include "guestio/task/intrusive_list.h"

namespace guestio::uring {

/// One request to the kernel, from Loop::start() to complete(). A base class for whatever holds the
/// request's buffers; nothing is allocated for it.
///
/// 1. From start() until complete() it is *in flight*: it must neither move nor be destroyed (the
///    destructor checks), and neither must the memory that its submission entry points to.
/// 2. complete() is called from Loop::run() only, never from within start() or cancel(), and only
///    when the kernel has let go of the buffers.
/// 3. complete() without IORING_CQE_F_MORE is the last one: the operation is not in flight any
///    more, and complete() may do anything with it: start it again, destroy it, resume a coroutine
///    that does either; start and cancel other operations; use every function of the loop but
///    run(). With IORING_CQE_F_MORE in `flags` the operation is still in flight.
///
/// Threads: its loop's.
class Operation : public task::ListNode<Operation> {
 public:
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  [[nodiscard]] bool in_flight() const noexcept { return state_ != State::kIdle; }

 protected:
  Operation() noexcept = default;
  ~Operation() {
    GUESTIO_CHECK(!in_flight(), "a ring operation to be complete before it is destroyed");
  }

 private:
  friend class Loop;
  friend class IopollRing;

  enum class State : std::uint8_t {
    kIdle,
    kQueued,     ///< Waits for a submission entry; linked in the loop's queue.
    kSubmitted,  ///< Has had one; linked only while a cancellation of it waits for an entry.
    kCancelled,  ///< Cancelled while queued; linked in the loop's list, complete() is due.
  };

  /// Fills in `entry`, which is all zeroes but for what the loop owns: the user data. Called once
  /// for each start(), at once or later, from the loop's thread.
  virtual void prepare(io_uring_sqe& entry) noexcept = 0;
  /// `result` is what the system call would have returned, or -errno; `flags` are IORING_CQE_F_*.
  virtual void complete(std::int32_t result, std::uint32_t flags) noexcept = 0;

  State state_ = State::kIdle;
  bool cancel_requested_ = false;
};

}  // namespace guestio::uring
