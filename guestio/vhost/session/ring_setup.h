// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/task.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/vhost/session/memory_table.h"
#include "guestio/vhost/session/ring_state.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/ring_event.h"

namespace guestio::vhost {

/// What a ring needs from its session besides its own messages.
struct RingContext {
  virtio::FeatureBits features = 0;
  std::shared_ptr<const MemoryTable> memory;
  std::shared_ptr<const InflightRecord> inflight;        ///< or nothing
  std::shared_ptr<registered::MemoryRegistry> registry;  ///< null: memory is not registered
  std::shared_ptr<const mem::DirtyLog> log;              ///< nothing: nothing is noted
  const UniqueFd* log_event = nullptr;                   ///< or nothing; the session's
  std::shared_ptr<PeerLog> peer_log;
  std::function<void()> on_broken = {};  ///< or nothing; called on the ring's thread
};

/// The control thread's half of one ring: collects what the front-end says about it, in whatever
/// order, starts it when everything is there, and passes changes on to the ring while it runs
/// (vhost-user, "Ring states").
///
///   idle ── size, addresses, memory and a kick message there ──► running
///   running ── GET_VRING_BASE, or the front-end leaves ──► idle, wants a new kick message
///   running ── memory without the ring's parts ──► idle, goes on once they are there again
///
/// Threads: the control thread. Errors of the setters are peer faults, nothing is changed then.
class RingSetup {
 public:
  RingSetup(Queue& queue, uring::Loop& home, std::uint16_t index) noexcept
      : queue_(queue), home_(home), index_(index) {}

  // `features` says which kind of ring it is.
  Result<> set_size(std::uint32_t size, virtio::FeatureBits features);
  Result<> set_base(std::uint32_t base, virtio::FeatureBits features);
  /// While the ring runs its places stay what they are: only the logging of the ring's own part may
  /// change, for which change_log() has to follow.
  Result<> set_addresses(const VringAddress& addresses);
  /// An eventfd; an empty one means that there are no kicks, calls or errors. A kick starts the
  /// ring once all else is there. Errors: host; the ring keeps what it had then.
  Result<> set_descriptor(RingEvent event, UniqueFd descriptor);
  /// In effect when it returns: a ring that was disabled takes nothing from then on.
  task::Task<> set_enabled(bool is_enabled);
  /// For front-ends without protocol features, which have no message that enables rings.
  void begin_enabled();

  /// Whether everything is there that a ring needs, and it does not run yet.
  [[nodiscard]] bool is_ready(const RingContext& context) const noexcept {
    return !is_running_ && is_kick_known_ && size_ != 0 && addresses_ && context.memory;
  }
  /// The ring stays idle and wants a new kick message.
  void refuse_start() noexcept { is_kick_known_ = false; }
  /// Errors: peer fault, out of range (an address outside memory), memory fault, host.
  /// Requires: is_ready().
  task::Task<Result<>> start(RingContext context);
  /// Puts a running ring on another memory table (or none); one whose parts are not in it stops
  /// until start() finds them again. Errors: as start(); out of range says that
  /// they are not in it.
  task::Task<Result<>> change_memory(RingContext context);
  /// A running ring notes what it writes where `environment` says, from when this returns.
  /// Errors: host; nothing is changed then.
  task::Task<Result<>> change_log(RingContext context);
  /// Stops the ring after what it took is answered. Returns where the ring goes on.
  task::Task<std::uint32_t> stop();
  /// Stops and forgets everything: for the next front-end.
  task::Task<> reset();

  // For another process that is to go on with the ring.

  /// Has the ring take nothing more. Returns, once all that it took is answered or waits for better
  /// times, how many chains wait; nothing when go_on() came first.
  task::Task<std::optional<std::size_t>> drain();
  /// Ends a pause.
  void resume();
  /// Stops a ring that is paused. What waits is left in the in-flight record.
  task::Task<> freeze();
  /// Runs again, if it ran: from where it was suspended, or where state() was when it was adopted.
  /// Errors: as start(); the ring is idle then.
  task::Task<Result<>> resume_frozen(RingContext context);
  /// Errors: host. Requires: it does not run.
  [[nodiscard]] Result<RingState> snapshot() const;
  /// Takes another's ring over, suspended; its in-band events are the session's. Errors: peer
  /// fault, as of the setters.
  Result<> restore(RingState state);

  /// Whether it was said since the ring last stopped how it is kicked.
  [[nodiscard]] bool is_kick_known() const noexcept { return is_kick_known_; }
  [[nodiscard]] bool has_descriptor(RingEvent event) const noexcept {
    if (event == RingEvent::kKick) return is_kick_known_ && kick_;
    return static_cast<bool>(event == RingEvent::kCall ? call_ : error_);
  }
  [[nodiscard]] std::uint16_t index() const noexcept { return index_; }
  [[nodiscard]] bool is_running() const noexcept { return is_running_; }
  /// Whether it would run if it were not for the pause.
  [[nodiscard]] bool is_frozen() const noexcept { return is_frozen_; }

 private:
  Result<virtio::RingParts> locate(const RingContext& context) const;
  Result<std::uint32_t> find_base(const virtio::RingParts& parts) const;
  RingDirtyLog make_log(const RingContext& context) const;
  static Result<uring::EventFdNotifier> make_log_event(const RingContext& context);
  task::Task<> stop_running();
  Result<> set_kick(UniqueFd kick);
  Result<> set_call(UniqueFd call);
  Result<> set_error(UniqueFd error);
  template <typename Change>
  void tell_running_ring(Change change);

  Queue& queue_;
  uring::Loop& home_;
  const std::uint16_t index_;

  std::uint32_t size_ = 0;
  std::uint32_t base_ = 0;
  std::optional<VringAddress> addresses_;
  bool is_kick_known_ = false;  // a kick message came since the ring last stopped
  // The ring has copies; these are for the next start.
  UniqueFd kick_;
  UniqueFd call_;
  UniqueFd error_;
  bool is_enabled_ = false;
  bool is_running_ = false;
  bool is_frozen_ = false;            // it ran
  bool was_broken_ = false;           // when it last stopped
  virtio::FeatureBits features_ = 0;  // with which it runs
};

}  // namespace guestio::vhost
