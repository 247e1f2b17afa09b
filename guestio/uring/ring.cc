// SPDX-License-Identifier: MIT
#include "guestio/uring/ring.h"

#include <sched.h>
#include <time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::uring {
namespace {

// SUBMIT_ALL: a bad SQE must not hold up the following ones.
// TASKRUN_FLAG: the kernel flags pending task work in shared memory, so polling needs no system
// call.
struct Attempt {
  RingMode mode;
  unsigned flags;
};
constexpr std::array kAttempts = {
    Attempt{RingMode::kDeferred, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                     IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL},
    Attempt{RingMode::kCooperative,
            IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL},
    Attempt{RingMode::kPlain, IORING_SETUP_SUBMIT_ALL},
    Attempt{RingMode::kPlain, 0},
};

int set_up(const RingOptions& options, unsigned flags, io_uring& ring) noexcept {
  io_uring_params parameters{};
  parameters.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  parameters.cq_entries = options.cq_entries;
  if (options.completion == Completion::kPolled) parameters.flags |= IORING_SETUP_IOPOLL;
  if ((flags & IORING_SETUP_SQPOLL) != 0) {
    parameters.sq_thread_idle = static_cast<unsigned>(options.sq_poll_thread->idle.count());
    if (options.sq_poll_thread->cpu) {
      parameters.flags |= IORING_SETUP_SQ_AFF;
      parameters.sq_thread_cpu = *options.sq_poll_thread->cpu;
    }
  }
  return ::io_uring_queue_init_params(options.sq_entries, &ring, &parameters);
}

void sleep_before_retry() noexcept {
  const timespec millisecond{0, 1'000'000};
  ::nanosleep(&millisecond, nullptr);
}

}  // namespace

const char* to_text(RingMode mode) noexcept {
  switch (mode) {
    case RingMode::kDeferred: return "deferred";
    case RingMode::kCooperative: return "cooperative";
    case RingMode::kPlain: return "plain";
  }
  return "unknown";
}

Result<Ring> Ring::create(const RingOptions& options) noexcept {
  int result = -EINVAL;
  io_uring sq_poll{};
  // The other modes bind task work to the submitting thread; here that is the kernel thread.
  if (options.sq_poll_thread &&
      set_up(options, IORING_SETUP_SQPOLL | IORING_SETUP_SUBMIT_ALL, sq_poll) == 0) {
    return Ring(sq_poll, RingMode::kPlain);
  }
  for (const Attempt& attempt : kAttempts) {
    if (attempt.mode < options.mode) continue;
    io_uring ring{};
    result = set_up(options, attempt.flags, ring);
    if (result == 0) {
      // Saves a descriptor look-up per call, and binds the ring to this thread, whose table the
      // descriptor is registered in. Optional.
      if (attempt.mode != RingMode::kPlain) (void)::io_uring_register_ring_fd(&ring);
      return Ring(ring, attempt.mode);
    }
    if (result != -EINVAL) break;
  }
  return fail(Error::host(-result, "io_uring_setup"));
}

Ring::Ring(Ring&& other) noexcept
    : ring_(other.ring_),
      mode_(other.mode_),
      owns_(std::exchange(other.owns_, false)),
      thread_(other.thread_),
      enter_calls_(other.enter_calls_) {}

Ring& Ring::operator=(Ring&& other) noexcept {
  if (this == &other) return *this;
  close();
  ring_ = other.ring_;
  mode_ = other.mode_;
  owns_ = std::exchange(other.owns_, false);
  thread_ = other.thread_;
  enter_calls_ = other.enter_calls_;
  return *this;
}

Ring::~Ring() { close(); }

void Ring::close() noexcept {
  if (!owns_) return;
  // In another thread the registered descriptor's index could name another ring.
  GUESTIO_CHECK(mode_ == RingMode::kPlain || thread_ == std::this_thread::get_id(),
                "ring destroyed on the thread of its creation");
  ::io_uring_queue_exit(&ring_);
}

io_uring_sqe* Ring::next_sqe() noexcept {
  io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
  if (entry != nullptr) std::memset(entry, 0, sizeof(*entry));
  return entry;
}

io_uring_cqe Ring::pop_completion() noexcept {
  const unsigned head = *ring_.cq.khead;
  // A copy of the fixed part; the ring has no big CQEs.
  const io_uring_cqe& shared = ring_.cq.cqes[head & ring_.cq.ring_mask];
  io_uring_cqe copy{};
  copy.user_data = shared.user_data;
  copy.res = shared.res;
  copy.flags = shared.flags;
  ::io_uring_cq_advance(&ring_, 1);
  return copy;
}

bool Ring::supports(int opcode) noexcept {
  io_uring_probe* const probe = ::io_uring_get_probe_ring(&ring_);
  if (probe == nullptr) return false;
  const bool is_supported = ::io_uring_opcode_supported(probe, opcode) != 0;
  ::io_uring_free_probe(probe);
  return is_supported;
}

bool Ring::has_work_for_kernel() const noexcept {
  // Relaxed: only a hint for a call; enter() itself orders later accesses.
  const unsigned flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED);
  return ::io_uring_sq_ready(&ring_) != 0 ||
         (flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
}

/// With SQPOLL most submissions need no call.
bool Ring::is_call_needed(Wait wait) const noexcept {
  if (wait == Wait::kForOne || !has_sq_poll_thread()) return true;
  // Relaxed: for the counter only.
  const unsigned flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED);
  return (flags & (IORING_SQ_NEED_WAKEUP | IORING_SQ_CQ_OVERFLOW)) != 0;
}

void Ring::flush_submissions() noexcept {
  while (unsubmitted() != 0) {
    enter(Wait::kNo);
    if (has_sq_poll_thread() && unsubmitted() != 0) ::sched_yield();
  }
}

void Ring::enter(Wait wait) noexcept {
  if (is_call_needed(wait)) ++enter_calls_;
  // io_uring_submit() also collects completions flagged by the kernel.
  const int result =
      wait == Wait::kForOne ? ::io_uring_submit_and_wait(&ring_, 1) : ::io_uring_submit(&ring_);
  if (result >= 0) return;
  switch (-result) {
    case EINTR:  // a signal; nothing is lost
    case EBUSY:  // completions must be reaped first
      return;
    case EAGAIN:
    case ENOMEM: return sleep_before_retry();
    default: break;
  }
  // EBADR: the kernel dropped completions, and their operations would never complete. Other errors:
  // a malformed call of ours.
  GUESTIO_CHECK(result != -EBADR, "the kernel keeps every completion");
  GUESTIO_CHECK(result >= 0, "io_uring_enter accepts a well-formed call");
}

}  // namespace guestio::uring
