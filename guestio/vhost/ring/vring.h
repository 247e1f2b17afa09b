// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "guestio/base/peer_log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/dirty_log.h"
#include "guestio/registered/memory_registry.h"
#include "guestio/task/event.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/notify.h"
#include "guestio/uring/poll.h"
#include "guestio/vhost/inflight/inflight_tracked_ring.h"
#include "guestio/vhost/ring/ring_memory.h"
#include "guestio/vhost/ring/ring_poller.h"
#include "guestio/vhost/ring/vring_counters.h"
#include "guestio/virtio/device.h"
#include "guestio/virtio/device_ring.h"

namespace guestio::vhost {

/// Where a ring marks the pages that the device writes, during a live migration.
struct RingDirtyLog {
  std::shared_ptr<const mem::DirtyLog> pages;  ///< null: nothing is marked
  /// Guest addresses of the ring's parts that the device writes; empty: not to be marked.
  std::array<mem::AddressRange, 2> ring{};
  uring::EventFdNotifier event = {};  ///< signalled after marks; may signal nobody
};

/// Signals `eventfd`, or nobody if that is empty. Errors: host; a ring without its notifier would
/// never interrupt the driver.
[[nodiscard]] Result<uring::EventFdNotifier> make_notifier(const UniqueFd& eventfd) noexcept;

/// A ring that runs on its thread: kicks in, chains to the device model, used entries and calls
/// out.
///
/// One pass: RingPoller polls → QueueHandler::process() pops the available chains → at the end of
/// the batch publish() adds all entries to the used ring at once, with at most one call. Of a long
/// batch that completes during process() the first entries are published, and called for, at once.
/// Notifications are enabled only before the thread sleeps.
///
/// | state     | entered by                       | chains                                       |
/// | --------- | -------------------------------- | -------------------------------------------- |
/// | running   | start()                          | popped and returned                          |
/// | disabled  | set_enabled(false)               | returned                                     |
/// | quiesced  | quiesce(), until resume()        | returned, or held pending retry              |
/// | broken    | a malformed ring, lost memory, a | neither; the error descriptor is signalled,  |
/// |           | chain without a reliable status  | `on_broken` called                           |
/// | stopping  | stop()                           | returned, or abandoned in a takeover         |
///
/// Chains that are never returned stay in the in-flight record, if there is one; the next backend
/// of the ring pops them again.
///
/// Threads: the queue's. Lifetime: from start() until stop() has called back; then it may be
/// destroyed.
class Vring final : public virtio::DeviceQueue,
                    private RingPoller::Client,
                    private uring::Deferred {
 public:
  struct Setup {
    std::uint16_t index = 0;      ///< in the in-flight record
    std::string label = "queue";  ///< for log lines
    virtio::RingParts ring;
    virtio::FeatureBits features = 0;
    std::uint32_t base = 0;                               ///< as in SET_VRING_BASE
    std::shared_ptr<const InflightRecord> inflight = {};  ///< null: no record
    mem::GuestMemory memory;                              ///< without a dirty log
    RingDirtyLog log = {};
    // Eventfds; each may be empty.
    UniqueFd kick = {};  ///< empty: the ring is polled periodically
    UniqueFd call = {};  ///< empty: the driver polls
    UniqueFd error = {};
    bool is_enabled = false;
    std::shared_ptr<VringCounters> counters = std::make_shared<VringCounters>();
    std::shared_ptr<registered::MemoryRegistry> memory_registry = {};  ///< null: unregistered
    uring::Loop* control_loop = nullptr;  ///< unmaps old memory; null: the ring's thread does
    std::shared_ptr<PeerLog> peer_log = std::make_shared<PeerLog>();
    std::function<void()> on_broken = {};  ///< optional; runs before the error is signalled
  };

  /// Errors: memory fault (the ring's memory is gone), host (no notifier for call or error).
  static Result<std::unique_ptr<Vring>> create(uring::Loop& loop, RingPoller& poller,
                                               virtio::QueueHandler& handler, Setup setup);
  Vring(const Vring&) = delete;
  Vring& operator=(const Vring&) = delete;
  ~Vring();

  /// Polls the ring and calls the driver once: earlier kicks and calls may have been lost.
  void start() noexcept;
  void set_enabled(bool is_enabled) noexcept;
  void set_call(uring::EventFdNotifier call) noexcept;
  void set_error(uring::EventFdNotifier error) noexcept;
  /// Listens to another descriptor and polls the ring.
  void set_kick(UniqueFd kick) noexcept;
  /// The memory (without a dirty log) of chains popped from now on. Chains in flight keep theirs.
  void set_memory(mem::GuestMemory memory, const virtio::RingParts& ring,
                  RingDirtyLog log) noexcept;
  /// Marks all further writes there, those of requests in flight included.
  void set_log(RingDirtyLog log) noexcept;

  /// Pops nothing more, drains, then calls `stopped` with the base, as in GET_VRING_BASE.
  /// Requires: called once.
  void stop(std::move_only_function<void(std::uint32_t)> stopped) noexcept;

  /// Pops nothing more. Calls `quiesced` with the number of held chains, once all chains in flight
  /// are returned or held pending retry. stop() leaves the held ones in the in-flight record.
  void quiesce(std::move_only_function<void(std::optional<std::size_t> held)> quiesced) noexcept;
  /// Ends the quiescence. Calls a pending `quiesced` with nothing.
  void resume() noexcept;
  /// Whether it pops and publishes nothing more, for good.
  [[nodiscard]] bool is_broken() const noexcept { return is_broken_; }

  // virtio::DeviceQueue
  virtio::PopResult pop(virtio::PoppedChain& popped) noexcept override;
  void complete(virtio::PoppedChain& popped, std::uint32_t written) noexcept override;
  void break_on(virtio::PoppedChain& popped, const Error& cause) noexcept override;
  void abandon(virtio::PoppedChain& popped) noexcept override;
  [[nodiscard]] virtio::FeatureBits features() const noexcept override { return features_; }

 private:
  /// A kick descriptor and the poll on it.
  struct Kick {
    Kick(uring::Loop& loop, UniqueFd kick_fd, uring::MultishotPoll::Callback callback);
    const UniqueFd fd;
    uring::MultishotPoll poll;
  };

  Vring(uring::Loop& loop, RingPoller& poller, virtio::QueueHandler& handler, Setup setup,
        InflightTrackedRing ring, uring::EventFdNotifier call, uring::EventFdNotifier error);

  // RingPoller::Client
  bool poll() noexcept override;
  void suppress_notifications() noexcept override;
  bool enable_notifications() noexcept override;
  [[nodiscard]] bool may_park() const noexcept override {
    return takes_chains() && !polls_periodically_;
  }
  void check_registered_memory() noexcept override { memory_.check_residency(); }

  void run() noexcept override;  // uring::Deferred: the end of a batch
  void listen_to(UniqueFd kick);
  void on_kick(std::int32_t events) noexcept;
  void return_malformed(virtio::PoppedChain& popped) noexcept;
  void forget(virtio::PoppedChain& popped) noexcept;
  void note_quiesced() noexcept;
  [[nodiscard]] std::size_t held_chains() const noexcept {
    return handover_ == nullptr ? 0 : handover_->held_chains();
  }
  void publish_used() noexcept;
  void call_early() noexcept;
  void call_driver() noexcept;
  void log_ring_pages() noexcept;
  void fail_ring(const Error& error) noexcept;
  task::Task<> poll_periodically();
  task::Task<> drain(std::move_only_function<void(std::uint32_t)> stopped);
  [[nodiscard]] bool takes_chains() const noexcept {
    return is_enabled_ && !is_broken_ && !is_stopping_ && !is_quiesced_;
  }

  uring::Loop& loop_;
  RingPoller& poller_;
  virtio::QueueHandler& handler_;
  virtio::HandoverHandler* const handover_;  // of handler_; may be null
  const std::string label_;
  const std::shared_ptr<PeerLog> peer_log_;
  const std::function<void()> on_broken_;  // optional
  const virtio::FeatureBits features_;
  const bool has_event_index_;
  const std::shared_ptr<VringCounters> counters_;
  InflightTrackedRing ring_;
  RingMemory memory_;
  std::list<Kick> kicks_;  // the last one is current; the others are ending
  uring::EventFdNotifier call_;
  uring::EventFdNotifier error_;
  RingDirtyLog log_;
  bool is_enabled_;
  bool is_broken_ = false;
  bool is_stopping_ = false;
  bool is_quiesced_ = false;
  std::move_only_function<void(std::optional<std::size_t>)> on_quiesced_;  // until it is called
  std::uint32_t sleeps_ = 0;
  bool is_processing_ = false;          // within poll()
  std::uint32_t early_call_gap_ = 0;    // publications between early calls of this poll()
  std::uint32_t until_early_call_ = 0;  // publications
  std::uint32_t pops_left_ = 0;         // of this pass: bounds it for a driver that never stops
  std::uint32_t in_flight_ = 0;
  std::uint32_t unpublished_ = 0;  // used entries
  bool owes_call_ = false;         // for published entries
  bool owes_log_event_ = false;
  bool polls_periodically_ = false;  // without a kick descriptor
  task::StopSource stop_polling_;
  task::Event drained_;  // stopping, and nothing is in flight
  task::Scope polling_;
  task::Scope control_;
};

}  // namespace guestio::vhost
