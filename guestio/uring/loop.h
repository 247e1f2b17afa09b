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
  unsigned file_slots = 64;      ///< Files that can be registered; those beyond it stay plain.
  unsigned buffer_slots = 4096;  ///< Pieces of memory that can be registered, up to 1 GiB each.
};

/// Counts since the loop was made.
struct LoopStatistics {
  Counter enter_calls;  ///< io_uring_enter system calls
  Counter iterations;
  Counter operations;   ///< start() calls
  Counter completions;  ///< complete() calls
  Counter cancellations;
  Counter sq_full;  ///< operations that had to wait for a submission entry
  Counter posts;    ///< posted functions that ran
};

/// Work that is done once for a whole batch of completions. Destroying it takes it off the list.
class Deferred : public task::ListNode<Deferred> {
 protected:
  ~Deferred() = default;

 private:
  friend class Loop;
  /// Not on the list any more; may put itself there again (for the next batch), and may destroy
  /// itself.
  virtual void run() noexcept = 0;
};

/// Something that is looked at in each iteration. Destroying it removes it.
class Poller : public task::ListNode<Poller> {
 protected:
  ~Poller() = default;

 private:
  friend class Loop;
  /// Returns true when the loop must not sleep but call again: work was found, or may come soon.
  virtual bool poll() noexcept = 0;
};

/// Runs operations, posted functions and pollers until it is stopped.
///
/// An iteration is: run posted functions, complete all that the kernel has done, ask the pollers,
/// run the deferred work, then submit what all these have started and sleep, both in one system
/// call. An iteration makes no system call when there is nothing to submit and a poller is busy.
///
/// 1. start() never fails: an operation that finds no submission entry waits for one, first come
///    first served.
/// 2. Nothing is called back from within start(), cancel() or at_batch_end().
/// 3. The destructor checks that no operation is in flight and no posted function is left. Stop a
///    loop from inside: request stop of its tasks, join their Scope, then stop().
///
/// Threads: create(), run(), the destructor and all else on one thread; post(), stop() and
/// statistics() on any. Errors: operations get -errno as their result; creation is the only thing
/// that can fail.
class Loop {
 public:
  /// Errors: as Ring::create(), and kHost for want of descriptors.
  static Result<std::unique_ptr<Loop>> create(const LoopOptions& options = {});
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop();

  /// Starts `operation`, which is submitted at the end of the iteration together with all others.
  /// Requires: not in flight.
  void start(Operation& operation) noexcept;
  /// Hands the kernel what was started so far, now and not at the end of the iteration: for a
  /// device that would stand idle meanwhile. Calls nobody back.
  void submit() noexcept;
  /// The same, and returns when the kernel has taken all: what they name may go then.
  void flush_submissions() noexcept { ring_.flush_submissions(); }
  /// Operations that were started since the kernel was last handed some.
  [[nodiscard]] unsigned unsubmitted() const noexcept { return ring_.unsubmitted(); }
  /// Submits with the others something whose completion nobody wants. `prepare` fills in the entry,
  /// which points to nothing that must live on. Returns false, without a call, when no entry is
  /// free.
  template <typename Prepare>
  [[nodiscard]] bool start_detached(Prepare prepare) noexcept {
    io_uring_sqe* const entry = ring_.next_sqe();
    if (entry == nullptr) return false;
    prepare(*entry);
    // A success that is reported would only end a sleep.
    if (ring_.can_skip_completions()) entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    entry->user_data = kNobody;
    return true;
  }

  /// Asks for an early end. complete() is still called, exactly once, later: with -ECANCELED when
  /// this came in time, else with the operation's own result. Does nothing when it is not in
  /// flight.
  void cancel(Operation& operation) noexcept;
  /// Operations in flight, those that wait for an entry included.
  [[nodiscard]] std::size_t in_flight() const noexcept;

  /// Runs `deferred` once, at the end of the present batch of completions and before what they have
  /// started is submitted. Does nothing when it is on the list already.
  void defer(Deferred& deferred) noexcept;

  /// Has `poller` asked from the next iteration on. Requires: not added.
  void add_poller(Poller& poller) noexcept;
  void remove_poller(Poller& poller) noexcept { poller.unlink(); }

  /// Any thread. Runs `function` on the loop's thread; those of one thread run in their order. May
  /// allocate: for control, not for requests.
  void post(std::move_only_function<void()> function) { mailbox_.post(std::move(function)); }

  /// Runs iterations until stop(). Returns at the end of the iteration that sees it, posted
  /// functions that have arrived by then included, with operations still in flight if there are
  /// any; may be called again.
  void run() noexcept;
  /// Any thread, signal handlers too. The present run(), or else the next one, returns.
  void stop() noexcept;
  /// Runs iterations until no operation is in flight and no posted function is left.
  void run_until_idle() noexcept;

  /// Registers `fd`, which stays the caller's and open. Never fails: without a free slot, or on a
  /// kernel that refuses, the file stays plain.
  [[nodiscard]] File register_file(int fd) noexcept { return files_.add(fd); }
  /// Undoes it, for registered and plain files alike. Operations in flight are not disturbed.
  void unregister_file(File file) noexcept { files_.remove(file); }

  /// Memory that is registered with this loop's ring.
  [[nodiscard]] RegisteredBuffers& registered_buffers() noexcept { return registered_buffers_; }

  /// Whether the running kernel knows an IORING_OP_*. Slow; for set-up.
  [[nodiscard]] bool supports(int opcode) noexcept { return ring_.supports(opcode); }
  [[nodiscard]] RingMode mode() const noexcept { return ring_.mode(); }
  [[nodiscard]] bool has_sq_poll_thread() const noexcept { return ring_.has_sq_poll_thread(); }
  /// Any thread.
  [[nodiscard]] LoopStatistics statistics() const noexcept;
  [[nodiscard]] bool is_own_thread() const noexcept {
    return std::this_thread::get_id() == thread_;
  }

 private:
  // Ends the sleep when something arrives in the mailbox.
  class WakeUp final : public Operation {
   public:
    explicit WakeUp(Loop& loop) noexcept : loop_(loop) {}

   private:
    void prepare(io_uring_sqe& entry) noexcept override;
    void complete(std::int32_t result, std::uint32_t flags) noexcept override;
    Loop& loop_;
  };

  Loop(Ring ring, Mailbox mailbox, const LoopOptions& options) noexcept;

  // The user data of entries whose completion nobody wants; no operation has this address.
  static constexpr std::uint64_t kNobody = 0;

  // What to do when there is nothing to do.
  enum class Idle : bool { kSleeps, kReturns };
  void iterate(Idle idle) noexcept;
  bool try_prepare(Operation& operation) noexcept;
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
  std::atomic<bool> stop_requested_ = false;  // set by stop(), taken by run()
  task::IntrusiveList<Operation> waiting_;    // for a submission entry
  task::IntrusiveList<Operation> to_cancel_;  // submitted; the cancellation waits for an entry
  task::IntrusiveList<Operation> cancelled_;  // never submitted; complete() is due
  task::IntrusiveList<Deferred> deferred_;
  task::IntrusiveList<Poller> pollers_;
  std::size_t in_flight_ = 0;  // wake_up_ included
  LoopStatistics statistics_;  // but for what others count
  WakeUp wake_up_;
};

}  // namespace guestio::uring
