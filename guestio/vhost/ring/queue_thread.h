// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <semaphore>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/ring_poller.h"
#include "guestio/vhost/ring/vring.h"
#include "guestio/virtio/device.h"

namespace guestio::vhost {

/// Makes the device model's end of queue `index`. Called on the queue's thread.
using QueueHandlerFactory = std::function<Result<std::unique_ptr<virtio::QueueHandler>>(
    uring::Loop& loop, std::uint16_t index)>;

/// A thread that serves virtqueues: one io_uring loop, one poller. It lives as long as the program,
/// so that a reconnecting front-end finds it ready. It sleeps while it is idle.
///
/// Threads: start(), the destructor and loop().post() are the control thread's; the rest is the
/// thread's own.
class QueueThread {
 public:
  struct Options {
    std::string name = "queue";  ///< at most 15 characters
    PollPolicy polling;
    std::optional<int> cpu = std::nullopt;  ///< pins the thread
    std::optional<uring::SqPollThread> submission_thread = std::nullopt;
  };

  /// Returns once the thread runs. Errors: of Loop::create() and start_thread(); host (no such
  /// processor).
  static Result<std::unique_ptr<QueueThread>> start(Options options);
  QueueThread(const QueueThread&) = delete;
  QueueThread& operator=(const QueueThread&) = delete;
  /// Requires: no queue.
  ~QueueThread();

  [[nodiscard]] uring::Loop& loop() noexcept { return *loop_; }
  [[nodiscard]] RingPoller& poller() noexcept { return *poller_; }
  // Any thread.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] uring::LoopStatistics statistics() const noexcept { return loop_->statistics(); }
  [[nodiscard]] RingPoller::Counters poll_counters() const noexcept { return poller_->counters(); }

  /// Runs `function` on the thread and waits for its return. Control path.
  void call(std::move_only_function<void()> function);

 private:
  QueueThread() = default;
  Result<> set_up(const Options& options);
  void main(const Options& options, std::move_only_function<void(Result<>)> ready);

  std::string name_;
  // made and destroyed on the thread
  std::unique_ptr<uring::Loop> loop_;
  std::unique_ptr<RingPoller> poller_;

  // Released after the last outside use of the loop: only then may it be destroyed.
  std::binary_semaphore may_end_{0};
  std::jthread thread_;
};

/// The queue threads of a program. Queues are assigned to them in turn.
class QueueThreads {
 public:
  struct Options {
    std::size_t count = 1;
    PollPolicy polling;
    std::vector<int> cpus = {};  ///< thread i runs on number i modulo size; empty: unpinned
    /// Each thread's ring gets a submission thread, on number i modulo size of
    /// `submission_cpus`. Where the kernel refuses, it does without, and the log says so once.
    bool has_submission_threads = false;
    std::vector<int> submission_cpus = {};
  };
  /// Errors: as QueueThread::start().
  static Result<QueueThreads> start(const Options& options);

  /// The threads in turn.
  [[nodiscard]] QueueThread& next() noexcept { return *threads_[turn_++ % threads_.size()]; }
  [[nodiscard]] std::span<const std::unique_ptr<QueueThread>> all() const noexcept {
    return threads_;
  }

 private:
  std::vector<std::unique_ptr<QueueThread>> threads_;
  std::size_t turn_ = 0;
};

/// One virtqueue: its thread, the device model's end of it, and its running ring, if any.
///
/// Threads: create() and the destructor are the control thread's, and wait for the queue's;
/// handler() and vring() are the queue's.
class Queue {
 public:
  /// Errors: those of `make_handler`.
  static Result<std::unique_ptr<Queue>> create(QueueThread& thread, std::uint16_t index,
                                               const QueueHandlerFactory& make_handler,
                                               std::string label = "queue");
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  /// Requires: no ring.
  ~Queue();

  [[nodiscard]] QueueThread& thread() noexcept { return thread_; }
  /// Counts of all of its rings. Any thread.
  [[nodiscard]] const std::shared_ptr<VringCounters>& counters() const noexcept {
    return counters_;
  }
  /// For log lines.
  [[nodiscard]] const std::string& label() const noexcept { return label_; }
  [[nodiscard]] uring::Loop& loop() noexcept { return thread_.loop(); }
  [[nodiscard]] virtio::QueueHandler& handler() noexcept { return *handler_; }
  /// The running ring, or null.
  [[nodiscard]] std::unique_ptr<Vring>& vring() noexcept { return vring_; }

 private:
  Queue(QueueThread& thread, std::string label) noexcept
      : thread_(thread), label_(std::move(label)) {}

  QueueThread& thread_;
  const std::string label_;
  const std::shared_ptr<VringCounters> counters_ = std::make_shared<VringCounters>();
  // made and destroyed on the thread
  std::unique_ptr<virtio::QueueHandler> handler_;
  std::unique_ptr<Vring> vring_;
};

}  // namespace guestio::vhost
