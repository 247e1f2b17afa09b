// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <cstdint>
#include <thread>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"

/// The io_uring instance itself: set-up with fall-backs, and the one system call.
namespace guestio::uring {

/// How the kernel hands completions over, best first. set-up takes the first that it accepts.
enum class RingMode : std::uint8_t {
  kDeferred,     ///< Only when the thread asks for them (Linux 6.1).
  kCooperative,  ///< At the thread's next system call, without interrupting it (5.19).
  kPlain,        ///< Whenever it likes. The only mode whose ring may change threads.
};

/// The name for messages: "deferred".
[[nodiscard]] const char* to_text(RingMode mode) noexcept;

struct RingOptions {
  unsigned submission_entries = 256;
  /// More than submission entries, because those are free again as soon as they are submitted. What
  /// does not fit is kept by the kernel, at a price, and not lost.
  unsigned completion_entries = 4096;
  /// Modes better than this one are not tried.
  RingMode mode = RingMode::kDeferred;
};

/// Owns one ring.
/// Threads: the one that creates it, destructor included (checked there); in kPlain mode any, one
/// at a time.
class Ring {
 public:
  /// Errors: kHost; ENOSYS or EPERM when io_uring is missing or forbidden on this machine.
  static Result<Ring> create(const RingOptions& options) noexcept;

  Ring(Ring&& other) noexcept;
  Ring& operator=(Ring&& other) noexcept;
  ~Ring();

  /// For registrations.
  [[nodiscard]] io_uring* raw() noexcept { return &ring_; }
  [[nodiscard]] RingMode mode() const noexcept { return mode_; }

  /// Whether the kernel knows IOSQE_CQE_SKIP_SUCCESS (5.17).
  [[nodiscard]] bool can_skip_completions() const noexcept {
    return (ring_.features & IORING_FEAT_CQE_SKIP) != 0;
  }

  /// A submission entry of all zeroes, or nullptr when all are in use until the next enter().
  [[nodiscard]] io_uring_sqe* next_entry() noexcept;

  /// Whether the running kernel knows an IORING_OP_*. Slow; for set-up.
  [[nodiscard]] bool supports(int opcode) noexcept;

  /// Entries that were taken with next_entry() since the last enter().
  [[nodiscard]] unsigned unsubmitted() const noexcept { return ::io_uring_sq_ready(&ring_); }

  /// Completions that can be taken without a system call.
  [[nodiscard]] unsigned completions_ready() const noexcept { return ::io_uring_cq_ready(&ring_); }
  /// Takes the oldest. Requires: completions_ready() > 0.
  [[nodiscard]] io_uring_cqe take_completion() noexcept;

  /// Whether the kernel has something to take or to hand over without being waited for.
  [[nodiscard]] bool has_work_for_kernel() const noexcept;

  enum class Wait : std::uint8_t { kNo, kForOne };
  /// Submits all entries and collects the completions that wait, in one io_uring_enter. With
  /// kForOne it also sleeps until there is one, but may return early: look again and call again.
  /// Requires for kNo: has_work_for_kernel().
  /// A kernel that is short of memory is given a millisecond.
  void enter(Wait wait) noexcept;

  /// Calls of io_uring_enter. Any thread.
  [[nodiscard]] std::uint64_t enter_calls() const noexcept { return enter_calls_; }

 private:
  Ring(const io_uring& ring, RingMode mode) noexcept : ring_(ring), mode_(mode) {}
  void close() noexcept;

  io_uring ring_;
  RingMode mode_;
  bool owns_ = true;
  std::thread::id thread_ = std::this_thread::get_id();
  Counter enter_calls_;
};

}  // namespace guestio::uring
