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

/// One pipe and the eventfd that stands for it.
struct PipeRelay::Line {
  std::uint16_t ring;
  RingEvent event;
  UniqueFd pipe;
  UniqueFd eventfd;  // ours alone: never waits

  [[nodiscard]] bool is(std::uint16_t its_ring, RingEvent its_event) const noexcept {
    return ring == its_ring && event == its_event;
  }
  [[nodiscard]] const UniqueFd& source() const noexcept {
    return event == RingEvent::kKick ? pipe : eventfd;
  }
  /// From where it is ready to the other end. Returns whether anything can follow.
  bool carry() const noexcept;
};

/// What the thread and the control thread have in common. Whoever goes last destroys it.
struct PipeRelay::Shared {
  explicit Shared(std::shared_ptr<void> counted) noexcept : place(std::move(counted)) {}

  void main() noexcept;
  void wake() const noexcept { (void)::eventfd_write(changed.get(), 1); }

  const std::shared_ptr<void> place;
  const UniqueFd changed{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};  // wakes the thread
  const UniqueFd paused{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};   // it carries nothing now
  std::mutex mutex;
  // Guarded by the mutex, which is never held around a pipe.
  std::vector<std::shared_ptr<const Line>> lines;
  std::vector<std::shared_ptr<const Line>> closing;  // by the thread
  bool is_paused = false;
  bool is_over = false;
};

namespace {

/// One event, as an eventfd has it.
constexpr std::uint64_t kOneEvent = 1;

/// A kick is read, a call or error written; neither waits as long as the peer is of good will.
Result<> prepare(const UniqueFd& pipe, RingEvent event) noexcept {
  const int flags = ::fcntl(pipe.get(), F_GETFL);
  const int wrong = event == RingEvent::kKick ? O_WRONLY : O_RDONLY;
  if (flags < 0 || (flags & O_ACCMODE) == wrong) {
    return fail(Error::peer_fault(event == RingEvent::kKick ? "kick pipe cannot be read"
                                                            : "call or error pipe is read-only"));
  }
  if (::fcntl(pipe.get(), F_SETFL, flags | O_NONBLOCK) != 0) return fail_host("set up a pipe");
  return {};
}

}  // namespace

std::shared_ptr<void> RelayCount::take(const std::shared_ptr<RelayCount>& count) {
  // Relaxed: a number and nothing else.
  if (count->running_.fetch_add(1, std::memory_order_relaxed) >= kMaxRelays) {
    count->running_.fetch_sub(1, std::memory_order_relaxed);
    return nullptr;
  }
  return {count.get(), [count](void*) { count->running_.fetch_sub(1, std::memory_order_relaxed); }};
}

bool PipeRelay::Line::carry() const noexcept {
  if (event == RingEvent::kKick) {
    // How many kicks came does not matter.
    std::array<std::byte, 65536> bytes;
    const ssize_t count = ::read(pipe.get(), bytes.data(), bytes.size());
    if (count > 0) (void)::eventfd_write(eventfd.get(), 1);
    return count != 0;  // 0: nobody has the other end any more
  }
  eventfd_t count = 0;
  if (::eventfd_read(eventfd.get(), &count) != 0) return true;
  pollfd room{.fd = pipe.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&room, 1, 0) == 1) (void)!::write(pipe.get(), &kOneEvent, sizeof kOneEvent);
  return true;
}

void PipeRelay::Shared::main() noexcept {
  // SIGPIPE is blocked here, as start_thread() has it.
  std::vector<std::shared_ptr<const Line>> present;
  std::vector<std::shared_ptr<const Line>> done;
  std::vector<pollfd> waits;
  while (true) {
    present.clear();
    {
      const std::scoped_lock lock(mutex);
      done.swap(closing);
      if (is_over) {
        done.insert(done.end(), lines.begin(), lines.end());
        lines.clear();
        break;
      }
      if (is_paused) {
        (void)::eventfd_write(paused.get(), 1);
      } else {
        present = lines;
      }
    }
    done.clear();
    waits.assign(1, {.fd = changed.get(), .events = POLLIN, .revents = 0});
    for (const auto& line : present) {
      waits.push_back({.fd = line->source().get(), .events = POLLIN, .revents = 0});
    }
    if (::poll(waits.data(), waits.size(), -1) <= 0) continue;
    if (waits.front().revents != 0) {
      // Before anything is carried: it may be over, or paused.
      eventfd_t count = 0;
      (void)::eventfd_read(changed.get(), &count);
      continue;
    }
    for (std::size_t i = 0; i < present.size(); ++i) {
      if (waits[i + 1].revents == 0 || present[i]->carry()) continue;
      // It would be ready again and again.
      const std::scoped_lock lock(mutex);
      std::erase(lines, present[i]);
    }
  }
  done.clear();
  (void)::eventfd_write(paused.get(), 1);
}

PipeRelay::PipeRelay(uring::Loop& home, std::shared_ptr<RelayCount> count) noexcept
    : home_(home), count_(std::move(count)) {}

PipeRelay::~PipeRelay() { ask_to_end(); }

void PipeRelay::ask_to_end() noexcept {
  if (!shared_) return;
  const std::scoped_lock lock(shared_->mutex);
  eventfd_t before = 0;
  (void)::eventfd_read(shared_->paused.get(), &before);
  shared_->is_over = true;
  shared_->wake();
}

namespace {

task::Task<> stop_after(uring::Loop& loop, std::chrono::milliseconds duration,
                        task::StopSource& stop, task::StopToken done) {
  const std::int32_t slept = co_await uring::sleep(loop, duration, done);
  if (slept == 0) stop.request_stop();
}

}  // namespace

task::Task<> PipeRelay::end() {
  if (!shared_) co_return;
  ask_to_end();
  task::StopSource limit;
  task::StopSource done;
  task::Scope timing;
  timing.spawn(stop_after(home_, std::chrono::seconds(1), limit, done.token()));
  (void)co_await uring::poll(home_, uring::File(shared_->paused.get()), POLLIN, limit.token());
  done.request_stop();
  auto timed = timing.join();
  co_await timed;
  shared_.reset();
}

Result<> PipeRelay::start() {
  if (shared_) return {};
  auto place = RelayCount::take(count_);
  if (!place) {
    return fail(ErrorKind::kTooLarge, "threads for pipes of front-ends that stall them",
                RelayCount::kMaxRelays + 1, RelayCount::kMaxRelays);
  }
  auto shared = std::make_shared<Shared>(std::move(place));
  if (!shared->changed || !shared->paused) return fail_host("make an event descriptor");
  auto thread = start_thread("guestio-relay", [shared] { shared->main(); });
  if (!thread) return fail(thread.error());
  thread->detach();
  shared_ = std::move(shared);
  return {};
}

Result<UniqueFd> PipeRelay::open(std::uint16_t ring, RingEvent event, UniqueFd pipe) {
  if (auto prepared = prepare(pipe, event); !prepared) return fail(prepared.error());
  if (auto started = start(); !started) return fail(started.error());
  UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd) return fail_host("make an event descriptor");
  auto end = duplicate_fd(eventfd);
  if (!end) return fail(end.error());
  close(ring, event);
  const std::scoped_lock lock(shared_->mutex);
  shared_->lines.push_back(
      std::make_shared<const Line>(ring, event, std::move(pipe), std::move(eventfd)));
  shared_->wake();
  return std::move(*end);
}

void PipeRelay::close(std::uint16_t ring, RingEvent event) noexcept {
  if (!shared_) return;
  const std::scoped_lock lock(shared_->mutex);
  const auto closed =
      std::ranges::find_if(shared_->lines, [&](const auto& line) { return line->is(ring, event); });
  if (closed == shared_->lines.end()) return;
  shared_->closing.push_back(std::move(*closed));
  shared_->lines.erase(closed);
  shared_->wake();
}

task::Task<bool> PipeRelay::quiesce(task::StopToken limit) {
  if (!shared_) co_return true;
  {
    const std::scoped_lock lock(shared_->mutex);
    eventfd_t before = 0;
    (void)::eventfd_read(shared_->paused.get(), &before);
    shared_->is_paused = true;
    shared_->wake();
  }
  const std::int32_t ready =
      co_await uring::poll(home_, uring::File(shared_->paused.get()), POLLIN, limit);
  co_return ready > 0;
}

void PipeRelay::resume() noexcept {
  if (!shared_) return;
  const std::scoped_lock lock(shared_->mutex);
  shared_->is_paused = false;
  shared_->wake();
}

Result<UniqueFd> PipeRelay::pipe_of(std::uint16_t ring, RingEvent event) const {
  if (!shared_) return UniqueFd();
  const std::scoped_lock lock(shared_->mutex);
  const auto found =
      std::ranges::find_if(shared_->lines, [&](const auto& line) { return line->is(ring, event); });
  return found == shared_->lines.end() ? UniqueFd() : duplicate_fd((*found)->pipe);
}

}  // namespace guestio::vhost
