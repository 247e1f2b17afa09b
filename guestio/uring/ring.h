// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <thread>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"

/// One io_uring instance: set-up with fall-backs, and io_uring_enter.
namespace guestio::uring {

/// When the kernel posts completions, best mode first. Set-up takes the first supported one.
enum class RingMode : std::uint8_t {
  kDeferred,     ///< Only when the thread asks (IORING_SETUP_DEFER_TASKRUN, Linux 6.1).
  kCooperative,  ///< At the thread's next system call (IORING_SETUP_COOP_TASKRUN, 5.19).
  kPlain,        ///< At any time. The only mode of rings that change threads.
};

/// For messages: "deferred".
[[nodiscard]] const char* to_text(RingMode mode) noexcept;

/// A kernel thread that polls the submission queue (IORING_SETUP_SQPOLL). While it is awake,
/// submission needs no system call. It occupies a processor while it polls.
struct SqPollThread {
  std::chrono::milliseconds idle{10};  ///< empty polls before it sleeps
  std::optional<unsigned> cpu = std::nullopt;
};

/// How completions are found.
enum class Completion : std::uint8_t {
  kInterrupt,
  kPolled,  ///< enter() polls the device (IORING_SETUP_IOPOLL); direct I/O only (IopollRing)
};

struct RingOptions {
  unsigned sq_entries = 256;
  /// More than SQEs, because an SQE is free again after submission. The kernel keeps completions on
  /// overflow, at a cost.
  unsigned cq_entries = 4096;
  /// The best mode to try.
  RingMode mode = RingMode::kDeferred;
  Completion completion = Completion::kInterrupt;  ///< kPolled: with kPlain only
  /// With kInterrupt only. If the kernel refuses, the ring has no such thread.
  std::optional<SqPollThread> sq_poll_thread = std::nullopt;
};

/// Owns one ring.
/// Threads: the creating one, destructor included (checked there); in kPlain mode any, one at a
/// time.
class Ring {
 public:
  /// Errors: kHost; ENOSYS or EPERM if io_uring is missing or blocked on this host.
  static Result<Ring> create(const RingOptions& options) noexcept;

  Ring(Ring&& other) noexcept;
  Ring& operator=(Ring&& other) noexcept;
  ~Ring();

  /// For registrations.
  [[nodiscard]] io_uring* raw() noexcept { return &ring_; }
  [[nodiscard]] RingMode mode() const noexcept { return mode_; }
  [[nodiscard]] bool has_sq_poll_thread() const noexcept {
    return (ring_.flags & IORING_SETUP_SQPOLL) != 0;
  }

  /// Whether the kernel supports IOSQE_CQE_SKIP_SUCCESS (5.17).
  [[nodiscard]] bool can_skip_completions() const noexcept {
    return (ring_.features & IORING_FEAT_CQE_SKIP) != 0;
  }

  /// A zeroed SQE, or nullptr if none is free before the next enter().
  [[nodiscard]] io_uring_sqe* next_sqe() noexcept;

  /// Whether the running kernel supports an IORING_OP_*. Slow; for set-up.
  [[nodiscard]] bool supports(int opcode) noexcept;

  /// SQEs from next_sqe() that the kernel has not consumed yet.
  [[nodiscard]] unsigned unsubmitted() const noexcept { return ::io_uring_sq_ready(&ring_); }

  /// CQEs available without a system call.
  [[nodiscard]] unsigned completions_ready() const noexcept { return ::io_uring_cq_ready(&ring_); }
  /// Pops the oldest CQE. Requires: completions_ready() > 0.
  [[nodiscard]] io_uring_cqe pop_completion() noexcept;

  /// Whether a non-waiting enter() has work: SQEs, task work, overflown CQEs.
  [[nodiscard]] bool has_work_for_kernel() const noexcept;

  enum class Wait : std::uint8_t { kNo, kForOne };
  /// Submits all SQEs and collects pending completions, in one io_uring_enter. With kForOne it also
  /// sleeps until the first completion, but may return early: check and call again.
  /// Requires for kNo: has_work_for_kernel(), or an IOPOLL ring.
  /// With SQPOLL the kernel thread consumes the SQEs later; while it is awake, kNo makes no call.
  /// After a lack of kernel memory it sleeps a millisecond.
  void enter(Wait wait) noexcept;

  /// Submits, and returns after the kernel has consumed every SQE.
  void flush_submissions() noexcept;
  /// With SQPOLL: sleeps until the kernel thread has freed an SQE.
  void wait_for_sqe() noexcept { (void)::io_uring_sqring_wait(&ring_); }

  /// Number of io_uring_enter calls. Any thread.
  [[nodiscard]] std::uint64_t enter_calls() const noexcept { return enter_calls_; }

 private:
  Ring(const io_uring& ring, RingMode mode) noexcept : ring_(ring), mode_(mode) {}
  void close() noexcept;
  [[nodiscard]] bool is_call_needed(Wait wait) const noexcept;

  io_uring ring_;
  RingMode mode_;
  bool owns_ = true;
  std::thread::id thread_ = std::this_thread::get_id();
  Counter enter_calls_;
};

}  // namespace guestio::uring
