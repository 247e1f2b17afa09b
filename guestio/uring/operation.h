// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <bit>
#include <cstdint>

#include "guestio/base/check.h"
#include "guestio/task/intrusive_list.h"

namespace guestio::uring {

/// One request to the kernel, from Loop::start() to complete(). Base class of the owner of the
/// request's buffers. Starting one allocates nothing.
///
/// 1. From start() until complete() it is *in flight*. It must neither move nor be destroyed
///    (checked by the destructor), and neither must the memory referenced by its SQE.
/// 2. complete() is called from Loop::run() only, never from within start() or cancel(), and only
///    after the kernel has released the buffers.
/// 3. The last complete() comes without IORING_CQE_F_MORE. The operation is then no longer in
///    flight, and complete() may start it again, destroy it, resume a coroutine with either effect,
///    start and cancel other operations, and call every function of the loop except run(). With
///    IORING_CQE_F_MORE the operation is still in flight.
///
/// Threads: its loop's.
class Operation : public task::ListNode<Operation> {
 public:
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  [[nodiscard]] bool in_flight() const noexcept { return state_ != State::kIdle; }

 protected:
  Operation() noexcept = default;
  ~Operation() { GUESTIO_CHECK(!in_flight(), "ring operation complete before its destruction"); }

 private:
  friend class OperationOwner;

  enum class State : std::uint8_t {
    kIdle,
    kQueued,     ///< Waits for an SQE; linked in the owner's queue.
    kSubmitted,  ///< Has an SQE; linked only while its cancellation waits for an SQE.
    kCancelled,  ///< Cancelled while queued; linked in the loop's list until complete().
  };

  /// Fills in `entry`. All its fields are zero; the owner sets the user data. Called once per
  /// start(), immediately or later, on the loop's thread.
  virtual void prepare(io_uring_sqe& entry) noexcept = 0;
  /// `result`: the return value of the system call, or -errno. `flags`: IORING_CQE_F_*.
  virtual void complete(std::int32_t result, std::uint32_t flags) noexcept = 0;

  State state_ = State::kIdle;
  bool cancel_requested_ = false;
};

/// Base class of the owners of a ring (Loop, IopollRing): the only access to the state of an
/// operation.
class OperationOwner {
 protected:
  using State = Operation::State;

  static State state_of(const Operation& operation) noexcept { return operation.state_; }
  static void set_state(Operation& operation, State state) noexcept { operation.state_ = state; }

  /// Sets the cancellation request; returns whether it was set before.
  static bool request_cancel(Operation& operation) noexcept {
    const bool was_requested = operation.cancel_requested_;
    operation.cancel_requested_ = true;
    return was_requested;
  }
  static void reset_cancel(Operation& operation) noexcept { operation.cancel_requested_ = false; }

  /// The user data of the operation's SQE and CQEs: its address.
  static std::uint64_t user_data_of(const Operation& operation) noexcept {
    return reinterpret_cast<std::uintptr_t>(&operation);
  }
  /// Requires: user_data_of() an operation in flight.
  static Operation& operation_of(std::uint64_t user_data) noexcept {
    // Safe: the address of an operation, which lives until it is complete.
    return *std::bit_cast<Operation*>(static_cast<std::uintptr_t>(user_data));
  }

  /// Submits the operation with `entry`, the ring's next SQE or null. Returns whether there is one.
  static bool try_prepare(Operation& operation, io_uring_sqe* entry) noexcept {
    if (entry == nullptr) return false;
    operation.state_ = State::kSubmitted;
    operation.prepare(*entry);
    entry->user_data = user_data_of(operation);
    return true;
  }
  /// May destroy the operation.
  static void complete(Operation& operation, std::int32_t result, std::uint32_t flags) noexcept {
    operation.complete(result, flags);
  }
};

}  // namespace guestio::uring
