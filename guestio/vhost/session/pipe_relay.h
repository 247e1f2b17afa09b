// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/wire/ring_event.h"

namespace guestio::vhost {

/// Limits the relay threads of one backend to kMaxRelays. A thread stalled by its front-end
/// outlives its session and counts on. Threads: any.
class RelayCount {
 public:
  static constexpr unsigned kMaxRelays = 4;

  /// A slot, released with its last copy; nullptr when all are taken.
  static std::shared_ptr<void> acquire(const std::shared_ptr<RelayCount>& count);

 private:
  std::atomic<unsigned> running_ = 0;
};

/// Relays events between the pipes of a front-end (User Mode Linux takes interrupts through one)
/// and eventfds for the rings. One event is 8 bytes in a pipe.
///
///     kick pipe ── read ──► relay thread ── eventfd ──► ring
///     ring ── eventfd ──► relay thread ── write ──► call or error pipe
///
/// 1. A pipe can stall any read, write or close: the peer can clear O_NONBLOCK, and holds the lock
///    of the pipe during a page fault inside its own write. Only the relay thread accesses an
///    opened pipe, and nobody waits for that thread. The control thread closes a refused pipe.
/// 2. A full pipe is signalled already: the event is dropped. A pipe without a reader raises no
///    signal here.
/// 3. A stalled thread lives until its peer releases it, with the descriptors of its session.
///
/// Threads: the control thread. Lifetime: the destructor ends the thread as well, but waits for
/// nothing.
class PipeRelay {
 public:
  /// `count` is the backend's.
  PipeRelay(uring::Loop& home, std::shared_ptr<RelayCount> count) noexcept;
  PipeRelay(const PipeRelay&) = delete;
  PipeRelay& operator=(const PipeRelay&) = delete;
  ~PipeRelay();

  /// Ends the thread and waits up to a second for it; a stalled one is left alone then.
  task::Task<> end();

  /// Returns the ring's eventfd for `pipe`, which replaces an earlier pipe of the same ring and
  /// event. Errors: peer fault (the wrong end of a pipe), host (no thread, no descriptor), too
  /// large (threads of earlier sessions are stalled). Requires: is_pipe(pipe).
  Result<UniqueFd> open(std::uint16_t ring, RingEvent event, UniqueFd pipe);
  /// Relays this event no more.
  void close(std::uint16_t ring, RingEvent event) noexcept;

  // Takeover by another process.

  /// Stops all reads and writes. Returns true after the last one, false when `limit` is stopped
  /// first.
  task::Task<bool> quiesce(task::StopToken limit);
  void resume() noexcept;
  /// A descriptor of the pipe of this event, or an empty one. Errors: host.
  [[nodiscard]] Result<UniqueFd> pipe_of(std::uint16_t ring, RingEvent event) const;

 private:
  struct Link;
  struct Worker;

  Result<> start();
  void request_end() noexcept;

  uring::Loop& home_;
  std::shared_ptr<RelayCount> count_;
  std::shared_ptr<Worker> worker_;  // shared with the thread; null before the first pipe
};

}  // namespace guestio::vhost
