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
  std::shared_ptr<const InflightRecord> inflight;        ///< optional
  std::shared_ptr<registered::MemoryRegistry> registry;  ///< null: memory is not registered
  std::shared_ptr<const mem::DirtyLog> log;              ///< null: no logging
  const UniqueFd* log_event = nullptr;                   ///< optional; the session's
  std::shared_ptr<PeerLog> peer_log;
  std::function<void()> on_broken = {};  ///< optional; called on the ring's thread
};

/// The control thread's half of one ring (vhost-user, "Ring states"): collects the settings from
/// the front-end's messages, in any order, starts the ring when all are present, and forwards
/// changes to the running ring.
///
///   idle ── size, addresses, memory and a kick message present ──► running
///   running ── GET_VRING_BASE, or the front-end disconnects ──► idle, needs a new kick message
///   running ── memory without the ring's parts ──► idle, resumes when they are back
///
/// Threads: the control thread. Errors of the setters are peer faults and change nothing.
class RingSetup {
 public:
  RingSetup(Queue& queue, uring::Loop& home, std::uint16_t index) noexcept
      : queue_(queue), home_(home), index_(index) {}

  // `features` tells the kind of the ring.
  Result<> set_size(std::uint32_t size, virtio::FeatureBits features);
  Result<> set_base(std::uint32_t base, virtio::FeatureBits features);
  /// On a running ring only the logging of the ring's own part may change; change_log() has to
  /// follow.
  Result<> set_addresses(const VringAddress& addresses);
  /// An eventfd, or empty for a ring without kicks, calls or errors. A kick starts the ring once
  /// all else is present. Errors: host; the ring keeps its descriptor.
  Result<> set_descriptor(RingEvent event, UniqueFd descriptor);
  /// Takes effect before it returns: a disabled ring takes no more chains.
  task::Task<> set_enabled(bool is_enabled);
  /// For front-ends without protocol features: no message of theirs enables rings.
  void enable_by_default();

  /// Whether an idle ring has all that it needs.
  [[nodiscard]] bool is_ready(const RingContext& context) const noexcept {
    return !is_running_ && has_kick_ && size_ != 0 && addresses_ && context.memory;
  }
  /// The ring stays idle until a new kick message.
  void reject_start() noexcept { has_kick_ = false; }
  /// Errors: peer fault, out of range (an address outside memory), memory fault, host.
  /// Requires: is_ready().
  task::Task<Result<>> start(RingContext context);
  /// Puts a running ring on another memory table, or none. A ring with parts outside it stops until
  /// start(). Errors: as start(); out of range for parts outside the table.
  task::Task<Result<>> change_memory(RingContext context);
  /// Puts a running ring on another dirty log, before it returns. Errors: host; the pages are
  /// logged all the same, without the event.
  task::Task<Result<>> change_log(RingContext context);
  /// Stops the ring after its chains in flight are completed. Returns the base for its next start.
  task::Task<std::uint32_t> stop();
  /// Stops the ring and clears all settings, for the next front-end.
  task::Task<> reset();

  // Takeover by another process.

  /// Stops the ring from taking chains. Returns the number of chains held pending retry once all
  /// others in flight are completed; nothing if resume() came first.
  task::Task<std::optional<std::size_t>> drain();
  /// Ends drain().
  void resume();
  /// Stops a drained ring. Held chains stay in the in-flight record.
  task::Task<> freeze();
  /// Restarts the ring if it ran before freeze() or in the snapshot of restore().
  /// Errors: as start(); the ring is idle then.
  task::Task<Result<>> resume_frozen(RingContext context);
  /// Errors: host. Requires: not running.
  [[nodiscard]] Result<RingState> snapshot() const;
  /// Continues another process's ring, frozen; its in-band events are the session's.
  /// Errors: peer fault, as of the setters.
  Result<> restore(RingState state);

  /// Whether a kick message arrived since the ring last stopped.
  [[nodiscard]] bool has_kick() const noexcept { return has_kick_; }
  [[nodiscard]] bool has_descriptor(RingEvent event) const noexcept {
    if (event == RingEvent::kKick) return has_kick_ && kick_;
    return static_cast<bool>(event == RingEvent::kCall ? call_ : error_);
  }
  [[nodiscard]] std::uint16_t index() const noexcept { return index_; }
  [[nodiscard]] bool is_running() const noexcept { return is_running_; }
  /// Whether it ran before freeze() or in the snapshot.
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
  void post_to_running_ring(Change change);

  Queue& queue_;
  uring::Loop& home_;
  const std::uint16_t index_;

  std::uint32_t size_ = 0;
  std::uint32_t base_ = 0;
  std::optional<VringAddress> addresses_;
  bool has_kick_ = false;  // a kick message arrived since the ring last stopped
  // For the next start; the running ring has copies.
  UniqueFd kick_;
  UniqueFd call_;
  UniqueFd error_;
  bool is_enabled_ = false;
  bool is_running_ = false;
  bool is_frozen_ = false;            // it ran before
  bool was_broken_ = false;           // at the last stop
  virtio::FeatureBits features_ = 0;  // of the running ring
};

}  // namespace guestio::vhost
