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

/// How many relays of one backend's front-ends still have a thread. A thread that a front-end
/// stalls outlives its session: the next sessions get no more than kMaxRelays of them. Threads:
/// any.
class RelayCount {
 public:
  static constexpr unsigned kMaxRelays = 4;

  /// A place, given back when the last copy goes; nullptr when there is none.
  static std::shared_ptr<void> take(const std::shared_ptr<RelayCount>& count);

 private:
  std::atomic<unsigned> running_ = 0;
};

/// Kick, call and error descriptors of a front-end that are pipes (User Mode Linux is interrupted
/// through one). The rings know eventfds only: each pipe gets one of ours, and a thread carries
/// events from one to the other, 8 bytes for an event.
///
///     kick pipe ── read ──► relay thread ── eventfd ──► ring
///     ring ── eventfd ──► relay thread ── write ──► call or error pipe
///
/// 1. A pipe can stall whoever reads, writes or closes it: its O_NONBLOCK is the peer's to clear,
///    and a peer that faults in the middle of a write of its own holds the pipe's lock. Only the
///    relay's thread does any of these to a pipe that was taken, and nobody waits for that thread.
///    A pipe that is refused is closed by the control thread.
/// 2. A full pipe has been signalled: the event is dropped. A pipe that nobody reads raises no
///    signal here.
/// 3. A thread that is stalled stays until its peer lets go, with the descriptors of its session.
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

  /// Ends the thread, and waits a second for that: one that is stalled is left alone then.
  task::Task<> end();

  /// The eventfd for the ring in place of `pipe`, which takes the place of an earlier one of the
  /// same ring and event. Errors: peer fault (the wrong end of a pipe), host (no thread, no
  /// descriptor), too large (stalled threads of earlier sessions). Requires: is_pipe(pipe).
  Result<UniqueFd> open(std::uint16_t ring, RingEvent event, UniqueFd pipe);
  /// Carries nothing more for this event.
  void close(std::uint16_t ring, RingEvent event) noexcept;

  // For another process that is to go on with the session.

  /// Reads and writes nothing more once it returns true; false when that takes until `limit` is
  /// stopped.
  task::Task<bool> quiesce(task::StopToken limit);
  void resume() noexcept;
  /// A descriptor of the pipe of this event, or an empty one. Errors: host.
  [[nodiscard]] Result<UniqueFd> pipe_of(std::uint16_t ring, RingEvent event) const;

 private:
  struct Line;
  struct Shared;

  Result<> start();
  void ask_to_end() noexcept;

  uring::Loop& home_;
  std::shared_ptr<RelayCount> count_;
  std::shared_ptr<Shared> shared_;  // with the thread; nullptr before the first pipe
};

}  // namespace guestio::vhost
