// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/task/intrusive_list.h"
#include "guestio/uring/file.h"
#include "guestio/uring/file_table.h"
#include "guestio/uring/mailbox.h"
#include "guestio/uring/operation.h"
#include "guestio/uring/registered_buffers.h"
#include "guestio/uring/ring.h"

/// The event loop: one ring, one thread.
namespace guestio::uring {

struct LoopOptions {
  RingOptions ring;
  unsigned file_slots = 64;      ///< Size of the file table; further files stay plain.
  unsigned buffer_slots = 4096;  ///< Size of the buffer table, up to 1 GiB per buffer.
};

/// Counts since the loop was created.
struct LoopStatistics {
  Counter enter_calls;  ///< io_uring_enter system calls
  Counter iterations;
  Counter operations;   ///< start() calls
  Counter completions;  ///< complete() calls
  Counter cancellations;
  Counter sq_full;  ///< operations queued for want of an SQE
  Counter posts;    ///< posted functions run
};

/// Work for the end of a batch of completions. Destruction removes it from the list.
class Deferred : public task::ListNode<Deferred> {
 protected:
  ~Deferred() = default;

 private:
  friend class Loop;
  /// Already off the list. May defer itself again (for the next batch) and may destroy itself.
  virtual void run() noexcept = 0;
};

/// Polled in each iteration. Destruction removes it.
class Poller : public task::ListNode<Poller> {
 protected:
  ~Poller() = default;

 private:
  friend class Loop;
  /// Returns true to keep the loop awake: a poll hit, or one expected soon.
  virtual bool poll() noexcept = 0;
};

/// Runs operations, posted functions and pollers until stop().
///
/// An iteration runs posted functions, completes what the kernel has finished, calls the pollers
/// and runs deferred work. Then one system call submits all new operations and sleeps. An iteration
/// with nothing to submit and a busy poller makes no system call.
///
/// 1. start() never fails: without a free SQE the operation queues for one in FIFO order.
/// 2. start(), cancel() and defer() call nothing back.
/// 3. The destructor checks that no operation is in flight and no posted function is left. To stop
/// a
///    loop from inside, request stop of its tasks, join their Scope, then call stop().
///
/// Threads: one thread calls create(), run(), the destructor and the rest; any thread may call
/// post(), stop() and statistics(). Errors: operations complete with -errno; only create() fails.
class Loop : private OperationOwner {
 public:
  /// Errors: as Ring::create(); kHost without descriptors.
  static Result<std::unique_ptr<Loop>> create(const LoopOptions& options = {});
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop();

  /// Starts `operation`. The end of the iteration submits it together with all others.
  /// Requires: not in flight.
  void start(Operation& operation) noexcept;
  /// Submits everything started so far, before the end of the iteration: keeps an idle device busy.
  /// Calls nothing back.
  void submit() noexcept;
  /// As submit(), and returns after the kernel has consumed all SQEs: memory and files referenced
  /// only by them may then go.
  void flush_submissions() noexcept { ring_.flush_submissions(); }
  /// Operations started since the last submission.
  [[nodiscard]] unsigned unsubmitted() const noexcept { return ring_.unsubmitted(); }
  /// Submits an SQE without a completion handler, together with the others. `prepare` fills in the
  /// entry, which refers to no memory. Returns false, without calling `prepare`, if no SQE is free.
  template <typename Prepare>
  [[nodiscard]] bool start_detached(Prepare prepare) noexcept {
    io_uring_sqe* const entry = ring_.next_sqe();
    if (entry == nullptr) return false;
    prepare(*entry);
    // The CQE of a success would only end a sleep.
    if (ring_.can_skip_completions()) entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    entry->user_data = kDetached;
    return true;
  }

  /// Requests cancellation. complete() still follows exactly once: with -ECANCELED, or with the
  /// operation's own result if the request is too late. No effect when not in flight.
  void cancel(Operation& operation) noexcept;
  /// Operations in flight, including those queued for an SQE.
  [[nodiscard]] std::size_t in_flight() const noexcept;

  /// Runs `deferred` once at the end of the present batch of completions, before the submission of
  /// new operations. No effect when it is on the list already.
  void defer(Deferred& deferred) noexcept;

  /// Polls `poller` from the next iteration on. Requires: not added.
  void add_poller(Poller& poller) noexcept;
  void remove_poller(Poller& poller) noexcept { poller.unlink(); }

  /// Any thread. Runs `function` on the loop's thread; functions of one thread keep their order.
  /// May allocate: for control paths, not for requests.
  void post(std::move_only_function<void()> function) { mailbox_.post(std::move(function)); }

  /// Runs iterations until stop(). Returns at the end of the iteration after the stop, with all
  /// functions posted before it run. Operations may still be in flight. May be called again.
  void run() noexcept;
  /// Any thread, signal handlers included. The present run(), or else the next one, returns.
  void stop() noexcept;
  /// Runs iterations until no operation is in flight and no posted function is left.
  void run_until_idle() noexcept;

  /// Registers `fd`, which the caller keeps open. Never fails: without a free slot, or if the
  /// kernel refuses, the file stays plain.
  [[nodiscard]] File register_file(int fd) noexcept { return files_.add(fd); }
  /// Undoes register_file(), also for plain files. Operations in flight are unaffected.
  void unregister_file(File file) noexcept { files_.remove(file); }

  /// The registered buffers of this loop's ring.
  [[nodiscard]] RegisteredBuffers& registered_buffers() noexcept { return registered_buffers_; }

  /// Whether the running kernel supports an IORING_OP_*. Slow; for set-up.
  [[nodiscard]] bool supports(int opcode) noexcept { return ring_.supports(opcode); }
  [[nodiscard]] RingMode mode() const noexcept { return ring_.mode(); }
  [[nodiscard]] bool has_sq_poll_thread() const noexcept { return ring_.has_sq_poll_thread(); }
  /// Any thread.
  [[nodiscard]] LoopStatistics statistics() const noexcept;
  [[nodiscard]] bool is_own_thread() const noexcept {
    return std::this_thread::get_id() == thread_;
  }

 private:
  // Ends the sleep when the mailbox receives a message.
  class WakeUp final : public Operation {
   public:
    explicit WakeUp(Loop& loop) noexcept : loop_(loop) {}

   private:
    void prepare(io_uring_sqe& entry) noexcept override;
    void complete(std::int32_t result, std::uint32_t flags) noexcept override;
    Loop& loop_;
  };

  Loop(Ring ring, Mailbox mailbox, const LoopOptions& options) noexcept;

  // User data of detached SQEs; no operation has this address.
  static constexpr std::uint64_t kDetached = 0;

  // What iterate() does without work.
  enum class Idle : bool { kSleeps, kReturns };
  void iterate(Idle idle) noexcept;
  bool try_prepare_cancel(Operation& operation) noexcept;
  void prepare_waiting() noexcept;
  void reap_completions() noexcept;
  void finish(Operation& operation, std::int32_t result, std::uint32_t flags) noexcept;
  bool run_pollers() noexcept;
  void run_deferred() noexcept;
  bool can_sleep() const noexcept;

  const std::thread::id thread_ = std::this_thread::get_id();
  Ring ring_;
  FileTable files_;
  RegisteredBuffers registered_buffers_;
  Mailbox mailbox_;
  std::atomic<bool> stop_requested_ = false;  // set by stop(), reset by run()
  task::IntrusiveList<Operation> waiting_;    // for an SQE
  task::IntrusiveList<Operation> to_cancel_;  // submitted; the cancellation waits for an SQE
  task::IntrusiveList<Operation> cancelled_;  // never submitted; complete() is due
  task::IntrusiveList<Deferred> deferred_;
  task::IntrusiveList<Poller> pollers_;
  std::size_t in_flight_ = 0;  // wake_up_ included
  LoopStatistics statistics_;  // except enter_calls
  WakeUp wake_up_;
};

}  // namespace guestio::uring
