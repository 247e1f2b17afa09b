// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

#include <chrono>
#include <cstdint>
#include <optional>
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

/// A thread of the kernel's that takes what is started by itself: as long as it is awake,
/// submitting is no system call. It uses a processor while it looks.
struct SqPollThread {
  std::chrono::milliseconds idle{10};  ///< how long it looks in vain before it sleeps
  std::optional<unsigned> cpu = std::nullopt;
};

/// How operations come to their end.
enum class Completion : std::uint8_t {
  kInterrupt,
  kPolled,  ///< enter() asks the device; for direct I/O only (IopollRing)
};

struct RingOptions {
  unsigned sq_entries = 256;
  /// More than submission entries, because those are free again as soon as they are submitted. What
  /// does not fit is kept by the kernel, at a price, and not lost.
  unsigned cq_entries = 4096;
  /// Modes better than this one are not tried.
  RingMode mode = RingMode::kDeferred;
  Completion completion = Completion::kInterrupt;  ///< kPolled: together with kPlain only
  /// Together with kInterrupt only. A kernel that refuses gives a ring without.
  std::optional<SqPollThread> sq_poll_thread = std::nullopt;
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
  [[nodiscard]] bool has_sq_poll_thread() const noexcept {
    return (ring_.flags & IORING_SETUP_SQPOLL) != 0;
  }

  /// Whether the kernel knows IOSQE_CQE_SKIP_SUCCESS (5.17).
  [[nodiscard]] bool can_skip_completions() const noexcept {
    return (ring_.features & IORING_FEAT_CQE_SKIP) != 0;
  }

  /// A submission entry of all zeroes, or nullptr when all are in use until the next enter().
  [[nodiscard]] io_uring_sqe* next_sqe() noexcept;

  /// Whether the running kernel knows an IORING_OP_*. Slow; for set-up.
  [[nodiscard]] bool supports(int opcode) noexcept;

  /// Entries that were taken with next_sqe() and not by the kernel yet.
  [[nodiscard]] unsigned unsubmitted() const noexcept { return ::io_uring_sq_ready(&ring_); }

  /// Completions that can be taken without a system call.
  [[nodiscard]] unsigned completions_ready() const noexcept { return ::io_uring_cq_ready(&ring_); }
  /// Takes the oldest. Requires: completions_ready() > 0.
  [[nodiscard]] io_uring_cqe pop_completion() noexcept;

  /// Whether the kernel has something to take or to hand over without being waited for.
  [[nodiscard]] bool has_work_for_kernel() const noexcept;

  enum class Wait : std::uint8_t { kNo, kForOne };
  /// Submits all entries and collects the completions that wait, in one io_uring_enter. With
  /// kForOne it also sleeps until there is one, but may return early: look again and call again.
  /// Requires for kNo: has_work_for_kernel(), or a ring that polls.
  /// A submission thread takes the entries some time after; while it is awake kNo is no call.
  /// A kernel that is short of memory is given a millisecond.
  void enter(Wait wait) noexcept;

  /// Submits, and returns when the kernel has taken every entry.
  void flush_submissions() noexcept;
  /// Sleeps until a submission thread, if there is one, has made an entry free.
  void wait_for_sqe() noexcept { (void)::io_uring_sqring_wait(&ring_); }

  /// Calls of io_uring_enter. Any thread.
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
