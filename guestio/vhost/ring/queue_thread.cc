// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/queue_thread.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <future>

#include "guestio/base/check.h"
#include "guestio/base/log.h"
#include "guestio/base/thread.h"

namespace guestio::vhost {

namespace {

// One for each queue of the thread. Below the usual RLIMIT_NOFILE, which is the upper limit.
constexpr unsigned kFileSlots = 512;

Result<> pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0 || cpu >= CPU_SETSIZE) {
    return fail(ErrorKind::kInvalidArgument, "processor", static_cast<std::uint64_t>(cpu));
  }
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  const int result = ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
  if (result != 0) return fail(Error::host(result, "pin a thread to a processor"));
  return {};
}

}  // namespace

Result<std::unique_ptr<QueueThread>> QueueThread::start(Options options) {
  std::unique_ptr<QueueThread> self(new QueueThread());
  std::promise<Result<>> ready;
  auto started = ready.get_future();
  self->name_ = options.name;
  auto thread =
      start_thread(self->name_, [&ready, thread = self.get(), options = std::move(options)] {
        thread->main(options, [&ready](Result<> result) { ready.set_value(result); });
      });
  if (!thread) return fail(thread.error());
  self->thread_ = std::move(*thread);
  if (auto result = started.get(); !result) return fail(result.error());
  return self;
}

QueueThread::~QueueThread() {
  // Without a poller the thread failed to start, and ends by itself.
  if (poller_) loop_->stop();
  may_end_.release();
  if (thread_.joinable()) thread_.join();
}

Result<> QueueThread::set_up(const Options& options) {
  if (options.cpu) {
    if (auto pinned = pin_to(*options.cpu); !pinned) return pinned;
  }
  uring::LoopOptions loop_options;
  loop_options.file_slots = kFileSlots;
  loop_options.ring.sq_poll_thread = options.submission_thread;
  auto loop = uring::Loop::create(loop_options);
  if (!loop) return fail(loop.error());
  loop_ = std::move(*loop);
  poller_ = std::make_unique<RingPoller>(*loop_, options.polling);
  return {};
}

void QueueThread::main(const Options& options, std::move_only_function<void(Result<>)> ready) {
  if (auto done = set_up(options); !done) return ready(done);
  ready({});
  loop_->run();
  may_end_.acquire();
  poller_.reset();
  // Channels drop waits that the kernel still ends.
  loop_->run_until_idle();
  loop_.reset();
}

void QueueThread::call(std::move_only_function<void()> function) {
  std::promise<void> done;
  auto finished = done.get_future();
  loop_->post([&] {
    function();
    done.set_value();
  });
  finished.wait();
}

namespace {

std::optional<uring::SqPollThread> submission_thread(const QueueThreads::Options& options,
                                                     std::size_t index) {
  if (!options.has_submission_threads) return std::nullopt;
  uring::SqPollThread thread;
  const auto& cpus = options.submission_cpus;
  if (!cpus.empty()) thread.cpu = static_cast<unsigned>(cpus[index % cpus.size()]);
  return thread;
}

}  // namespace

Result<QueueThreads> QueueThreads::start(const Options& options) {
  QueueThreads threads;
  bool has_failed = false;
  for (std::size_t i = 0; i < options.count; ++i) {
    std::optional<int> cpu;
    if (!options.cpus.empty()) cpu = options.cpus[i % options.cpus.size()];
    auto thread = QueueThread::start({.name = fmt::format("queue-{}", i),
                                      .polling = options.polling,
                                      .cpu = cpu,
                                      .submission_thread = submission_thread(options, i)});
    if (!thread) return fail(thread.error());
    has_failed |= options.has_submission_threads && !(*thread)->loop().has_sq_poll_thread();
    threads.threads_.push_back(std::move(*thread));
  }
  if (has_failed) {
    log::warning(
        "no submission thread: refused by the kernel; I/O is submitted by system calls (choose "
        "another --sqpoll-cpus, or omit --sqpoll)");
  }
  return threads;
}

Result<std::unique_ptr<Queue>> Queue::create(QueueThread& thread, std::uint16_t index,
                                             const QueueHandlerFactory& make_handler,
                                             std::string label) {
  std::unique_ptr<Queue> self(new Queue(thread, std::move(label)));
  Result<> made;
  thread.call([&] {
    auto handler = make_handler(thread.loop(), index);
    if (handler) {
      self->handler_ = std::move(*handler);
    } else {
      made = fail(handler.error());
    }
  });
  if (!made) return fail(made.error());
  return self;
}

Queue::~Queue() {
  GUESTIO_CHECK(vring_ == nullptr, "a queue to be destroyed without a ring");
  thread_.call([this] { handler_.reset(); });
}

}  // namespace guestio::vhost
