// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/pipe_relay.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "guestio/base/thread.h"
#include "guestio/task/scope.h"
#include "guestio/uring/awaitables.h"

namespace guestio::vhost {

/// One pipe and its eventfd.
struct PipeRelay::Link {
  std::uint16_t ring;
  RingEvent event;
  UniqueFd pipe;
  UniqueFd eventfd;  // ours alone: never blocks

  [[nodiscard]] bool is(std::uint16_t its_ring, RingEvent its_event) const noexcept {
    return ring == its_ring && event == its_event;
  }
  [[nodiscard]] const UniqueFd& source() const noexcept {
    return event == RingEvent::kKick ? pipe : eventfd;
  }
  /// Relays one event from the source. Returns whether more can follow.
  bool relay() const noexcept;
};

/// Shared by the relay thread and the control thread; the last one destroys it.
struct PipeRelay::Worker {
  explicit Worker(std::shared_ptr<void> counted) noexcept : slot(std::move(counted)) {}

  void run() noexcept;
  void wake() const noexcept { (void)::eventfd_write(changed.get(), 1); }

  const std::shared_ptr<void> slot;
  const UniqueFd changed{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};   // wakes the thread
  const UniqueFd quiesced{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};  // it relays nothing now
  std::mutex mutex;
  // Guarded by the mutex, which is never held during access to a pipe.
  std::vector<std::shared_ptr<const Link>> links;
  std::vector<std::shared_ptr<const Link>> closing;  // by the thread
  bool is_quiesced = false;
  bool is_ended = false;
};

namespace {

/// One event, in the format of an eventfd.
constexpr std::uint64_t kOneEvent = 1;

/// Checks the direction: kicks are read, calls and errors written. With O_NONBLOCK neither blocks,
/// unless the peer clears the flag.
Result<> prepare(const UniqueFd& pipe, RingEvent event) noexcept {
  const int flags = ::fcntl(pipe.get(), F_GETFL);
  const int wrong = event == RingEvent::kKick ? O_WRONLY : O_RDONLY;
  if (flags < 0 || (flags & O_ACCMODE) == wrong) {
    return fail(Error::peer_fault(event == RingEvent::kKick ? "kick pipe cannot be read"
                                                            : "call or error pipe is read-only"));
  }
  if (::fcntl(pipe.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    return fail_host("set O_NONBLOCK on a pipe");
  return {};
}

}  // namespace

std::shared_ptr<void> RelayCount::acquire(const std::shared_ptr<RelayCount>& count) {
  // Relaxed: a number and nothing else.
  if (count->running_.fetch_add(1, std::memory_order_relaxed) >= kMaxRelays) {
    count->running_.fetch_sub(1, std::memory_order_relaxed);
    return nullptr;
  }
  return {count.get(), [count](void*) { count->running_.fetch_sub(1, std::memory_order_relaxed); }};
}

bool PipeRelay::Link::relay() const noexcept {
  if (event == RingEvent::kKick) {
    // The number of kicks is irrelevant.
    std::array<std::byte, 65536> bytes;
    const ssize_t count = ::read(pipe.get(), bytes.data(), bytes.size());
    if (count > 0) (void)::eventfd_write(eventfd.get(), 1);
    return count != 0;  // 0: the other end is closed
  }
  eventfd_t count = 0;
  if (::eventfd_read(eventfd.get(), &count) != 0) return true;
  pollfd room{.fd = pipe.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&room, 1, 0) == 1) (void)!::write(pipe.get(), &kOneEvent, sizeof kOneEvent);
  return true;
}

void PipeRelay::Worker::run() noexcept {
  // SIGPIPE is blocked: start_thread() blocks all signals.
  std::vector<std::shared_ptr<const Link>> active;
  std::vector<std::shared_ptr<const Link>> done;
  std::vector<pollfd> polled;
  while (true) {
    active.clear();
    {
      const std::scoped_lock lock(mutex);
      done.swap(closing);
      if (is_ended) {
        done.insert(done.end(), links.begin(), links.end());
        links.clear();
        break;
      }
      if (is_quiesced) {
        (void)::eventfd_write(quiesced.get(), 1);
      } else {
        active = links;
      }
    }
    done.clear();
    polled.assign(1, {.fd = changed.get(), .events = POLLIN, .revents = 0});
    for (const auto& link : active) {
      polled.push_back({.fd = link->source().get(), .events = POLLIN, .revents = 0});
    }
    if (::poll(polled.data(), polled.size(), -1) <= 0) continue;
    if (polled.front().revents != 0) {
      // Before any event is relayed: the worker may be ended or quiesced.
      eventfd_t count = 0;
      (void)::eventfd_read(changed.get(), &count);
      continue;
    }
    for (std::size_t i = 0; i < active.size(); ++i) {
      if (polled[i + 1].revents == 0 || active[i]->relay()) continue;
      // At the end of its input it would stay readable.
      const std::scoped_lock lock(mutex);
      std::erase(links, active[i]);
    }
  }
  done.clear();
  (void)::eventfd_write(quiesced.get(), 1);
}

PipeRelay::PipeRelay(uring::Loop& home, std::shared_ptr<RelayCount> count) noexcept
    : home_(home), count_(std::move(count)) {}

PipeRelay::~PipeRelay() { request_end(); }

void PipeRelay::request_end() noexcept {
  if (!worker_) return;
  const std::scoped_lock lock(worker_->mutex);
  eventfd_t before = 0;
  (void)::eventfd_read(worker_->quiesced.get(), &before);
  worker_->is_ended = true;
  worker_->wake();
}

namespace {

task::Task<> stop_after(uring::Loop& loop, std::chrono::milliseconds duration,
                        task::StopSource& stop, task::StopToken done) {
  const std::int32_t slept = co_await uring::sleep(loop, duration, done);
  if (slept == 0) stop.request_stop();
}

}  // namespace

task::Task<> PipeRelay::end() {
  if (!worker_) co_return;
  request_end();
  task::StopSource limit;
  task::StopSource done;
  task::Scope timing;
  timing.spawn(stop_after(home_, std::chrono::seconds(1), limit, done.token()));
  (void)co_await uring::poll(home_, uring::File(worker_->quiesced.get()), POLLIN, limit.token());
  done.request_stop();
  co_await timing.join();
  worker_.reset();
}

Result<> PipeRelay::start() {
  if (worker_) return {};
  auto slot = RelayCount::acquire(count_);
  if (!slot) {
    return fail(ErrorKind::kTooLarge, "relay threads, all stalled by front-ends",
                RelayCount::kMaxRelays + 1, RelayCount::kMaxRelays);
  }
  auto worker = std::make_shared<Worker>(std::move(slot));
  if (!worker->changed || !worker->quiesced) return fail_host("create an eventfd");
  auto thread = start_thread("guestio-relay", [worker] { worker->run(); });
  if (!thread) return fail(thread.error());
  thread->detach();
  worker_ = std::move(worker);
  return {};
}

Result<UniqueFd> PipeRelay::open(std::uint16_t ring, RingEvent event, UniqueFd pipe) {
  if (auto prepared = prepare(pipe, event); !prepared) return fail(prepared.error());
  if (auto started = start(); !started) return fail(started.error());
  UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd) return fail_host("create an eventfd");
  auto end = duplicate_fd(eventfd);
  if (!end) return fail(end.error());
  close(ring, event);
  const std::scoped_lock lock(worker_->mutex);
  worker_->links.push_back(
      std::make_shared<const Link>(ring, event, std::move(pipe), std::move(eventfd)));
  worker_->wake();
  return std::move(*end);
}

void PipeRelay::close(std::uint16_t ring, RingEvent event) noexcept {
  if (!worker_) return;
  const std::scoped_lock lock(worker_->mutex);
  const auto closed =
      std::ranges::find_if(worker_->links, [&](const auto& link) { return link->is(ring, event); });
  if (closed == worker_->links.end()) return;
  worker_->closing.push_back(std::move(*closed));
  worker_->links.erase(closed);
  worker_->wake();
}

task::Task<bool> PipeRelay::quiesce(task::StopToken limit) {
  if (!worker_) co_return true;
  {
    const std::scoped_lock lock(worker_->mutex);
    eventfd_t before = 0;
    (void)::eventfd_read(worker_->quiesced.get(), &before);
    worker_->is_quiesced = true;
    worker_->wake();
  }
  const std::int32_t ready =
      co_await uring::poll(home_, uring::File(worker_->quiesced.get()), POLLIN, limit);
  co_return ready > 0;
}

void PipeRelay::resume() noexcept {
  if (!worker_) return;
  const std::scoped_lock lock(worker_->mutex);
  worker_->is_quiesced = false;
  worker_->wake();
}

Result<UniqueFd> PipeRelay::pipe_of(std::uint16_t ring, RingEvent event) const {
  if (!worker_) return UniqueFd();
  const std::scoped_lock lock(worker_->mutex);
  const auto found =
      std::ranges::find_if(worker_->links, [&](const auto& link) { return link->is(ring, event); });
  return found == worker_->links.end() ? UniqueFd() : duplicate_fd((*found)->pipe);
}

}  // namespace guestio::vhost
