// SPDX-License-Identifier: MIT
#pragma once

#include <array>
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
#include "guestio/vhost/ring/ring_poller.h"
#include "guestio/virtio/device.h"
#include "guestio/virtio/device_ring.h"

namespace guestio::vhost {

/// What rings of a queue count, one after the other. Written by the queue's thread, read by any.
struct VringCounters {
  Counter kicks;                 ///< wake-ups by the driver
  Counter calls;                 ///< interrupts sent to it
  Counter malformed;             ///< chains
  Counter broken;                ///< rings that stopped because of their content or memory
  Counter registered_regions;    ///< of guest memory, registered with the kernel now
  Counter unregistered_regions;  ///< those that are not, or not yet, though registering is wanted
};

/// Where what the device writes is noted for a live migration.
struct RingDirtyLog {
  std::shared_ptr<const mem::DirtyLog> pages;  ///< nothing: it is not
  /// The guest addresses of what the device writes into the ring itself; empty: not to be noted.
  std::array<mem::AddressRange, 2> ring{};
  uring::EventFdNotifier event = {};  ///< signalled when something was noted; may signal nobody
};

/// Signals `eventfd`, or nobody where there is none. Errors: host; who goes on without would never
/// interrupt the driver.
[[nodiscard]] Result<uring::EventFdNotifier> make_notifier(const UniqueFd& eventfd) noexcept;

/// A ring that runs on its thread: kicks in, chains to the device model, used entries and calls
/// out.
///
/// One pass: the thread's RingPoller looks → QueueHandler::process() pops what is available → at
/// the end of the batch publish() shows the driver all answers at once and calls it at most once.
/// Of a long batch that is answered as it is taken the first few are shown, and called for, at
/// once. Kicks are asked for only before the thread sleeps.
///
/// States: running; paused (disabled by the front-end: nothing is taken, what was taken is
/// answered), or told to pause because the queue may change hands; broken (a malformed ring, a
/// chain that could not be returned with its status, or lost memory: nothing is taken or shown any
/// more, the error descriptor was written, `on_broken` called); stopping.
///
/// A chain that is never returned stays in the in-flight record, if there is one: whoever serves
/// the ring next meets it again.
///
/// Threads: the queue's. Lifetime: from start() until stop() has called back, then it may be
/// destroyed.
class Vring final : public virtio::DeviceQueue,
                    private uring::Deferred,
                    private registered::MemoryRegistry::Subscriber {
 public:
  struct Setup {
    std::uint16_t index = 0;      ///< in the in-flight record
    std::string label = "queue";  ///< for log lines
    virtio::RingParts ring;
    virtio::FeatureBits features = 0;
    std::uint32_t base = 0;                               ///< as SET_VRING_BASE has it
    std::shared_ptr<const InflightRecord> inflight = {};  ///< or nothing
    mem::GuestMemory memory;                              ///< without a dirty log
    RingDirtyLog log = {};
    // Eventfds; each may be empty.
    UniqueFd kick = {};  ///< without: the ring is looked at every now and then
    UniqueFd call = {};  ///< without: the driver polls
    UniqueFd error = {};
    bool is_enabled = false;
    std::shared_ptr<VringCounters> counters = std::make_shared<VringCounters>();
    std::shared_ptr<registered::MemoryRegistry> memory_registry =
        {};                               ///< or nothing: memory is not registered
    uring::Loop* control_loop = nullptr;  ///< where memory goes that is done with; or nothing: here
    std::shared_ptr<PeerLog> peer_log = std::make_shared<PeerLog>();
    std::function<void()> on_broken = {};  ///< or nothing; before the error descriptor is written
  };

  /// Errors: memory fault (the ring's memory is gone), host (its call or error descriptor cannot be
  /// signalled).
  static Result<std::unique_ptr<Vring>> create(uring::Loop& loop, RingPoller& poller,
                                               virtio::QueueHandler& handler, Setup setup);
  Vring(const Vring&) = delete;
  Vring& operator=(const Vring&) = delete;
  ~Vring();

  /// Looks at the ring and calls the driver once: kicks and calls may have been lost before.
  void start() noexcept;
  void set_enabled(bool is_enabled) noexcept;
  void set_call(uring::EventFdNotifier call) noexcept;
  void set_error(uring::EventFdNotifier error) noexcept;
  /// Listens to another descriptor from now on and looks at the ring.
  void set_kick(UniqueFd kick) noexcept;
  /// Chains taken from now on mean this memory (without a dirty log); those in flight keep theirs.
  void set_memory(mem::GuestMemory memory, const virtio::RingParts& ring,
                  RingDirtyLog log) noexcept;
  /// What is written from now on is noted there, by requests in flight too.
  void set_log(RingDirtyLog log) noexcept;

  /// Takes nothing more, waits until what was taken is answered, then calls `stopped` with the
  /// place where the ring goes on, as GET_VRING_BASE has it. Once.
  void stop(std::move_only_function<void(std::uint32_t)> stopped) noexcept;

  /// Takes nothing more, and calls `paused` once each chain that was taken is answered or waits for
  /// better times with nobody at work on it, with how many wait so. stop() leaves those in the
  /// in-flight record.
  void quiesce(std::move_only_function<void(std::optional<std::size_t> waiting)> paused) noexcept;
  /// Ends a pause; `paused` is called with nothing if it was not called yet.
  void resume() noexcept;
  /// Whether it takes and shows nothing more, for good.
  [[nodiscard]] bool is_broken() const noexcept { return is_broken_; }

  // For the poller.

  /// Lets the device take what is available.
  void look() noexcept;
  /// Tells the driver that it need not kick for now.
  void suppress_notifications() noexcept;
  /// Asks the driver to kick, then looks once more, for what came without a kick. Returns whether
  /// nothing had.
  bool enable_notifications() noexcept;
  /// Asks what has become of registered guest memory that no request has met. A system call a
  /// region: seldom.
  void check_registered_memory() noexcept {
    if (memory_registry_) memory_registry_->check_residency();
  }
  /// Whether a chain that it took is not answered yet.
  [[nodiscard]] bool has_chains_in_flight() const noexcept { return in_flight_ != 0; }
  /// Whether a kick will tell of all that there is to do.
  [[nodiscard]] bool may_park() const noexcept { return takes_chains() && !polls_periodically_; }

  // virtio::DeviceQueue
  virtio::PopResult pop(virtio::PoppedChain& taken) noexcept override;
  void complete(virtio::PoppedChain& taken, std::uint32_t written) noexcept override;
  void break_on(virtio::PoppedChain& taken, const Error& cause) noexcept override;
  void abandon(virtio::PoppedChain& taken) noexcept override;
  [[nodiscard]] virtio::FeatureBits features() const noexcept override { return features_; }

 private:
  /// A kick descriptor and the poll on it.
  struct Kick {
    Kick(uring::Loop& loop, UniqueFd kick_fd, uring::MultishotPoll::Callback callback);
    const UniqueFd fd;
    uring::MultishotPoll poll;
  };

  Vring(uring::Loop& loop, RingPoller& poller, virtio::QueueHandler& handler, Setup setup,
        InflightTrackedRing queue, uring::EventFdNotifier call, uring::EventFdNotifier error);

  /// Memory, and that it is registered: longer than the registration lives the mapping.
  struct Epoch : virtio::MemoryEpoch {
    registered::MemoryRegistry::Registrations registrations;
  };

  void begin_epoch(mem::GuestMemory memory);
  void end_epoch(std::list<Epoch>::iterator epoch) noexcept;
  void register_memory();
  void prefetch_guards(const virtio::Chain& chain) const noexcept;
  void count_registered_memory();
  void on_region_lost() noexcept override;  // MemoryRegistry::Taker
  void run() noexcept override;             // uring::Deferred: the end of a batch
  void listen_to(UniqueFd kick);
  void on_kick(std::int32_t events) noexcept;
  void return_malformed(virtio::PoppedChain& taken) noexcept;
  void forget(virtio::PoppedChain& taken) noexcept;
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
  uring::Loop* const control_loop_;  // or nothing
  RingPoller& poller_;
  virtio::QueueHandler& handler_;
  virtio::HandoverHandler* const handover_;  // of handler_, or null
  const std::string label_;
  const std::shared_ptr<PeerLog> peer_log_;
  const std::function<void()> on_broken_;  // or nothing
  const virtio::FeatureBits features_;
  const bool has_event_index_;
  InflightTrackedRing queue_;
  std::shared_ptr<registered::MemoryRegistry> memory_registry_;  // or nothing
  std::uint32_t seen_generation_ = 0;                            // that register_memory() has seen
  std::uint32_t sleeps_ = 0;
  std::list<Epoch> epochs_;  // the last one is the present
  std::list<Kick> kicks_;    // the last one is the present; others are on their way out
  const std::shared_ptr<VringCounters> counters_;
  uring::EventFdNotifier call_;
  uring::EventFdNotifier error_;
  RingDirtyLog log_;
  bool is_enabled_;
  bool is_broken_ = false;
  bool is_stopping_ = false;
  bool is_taking_ = false;            // within look()
  std::uint32_t early_call_gap_ = 0;  // in this look(): of showings
  std::uint32_t showings_before_call_ = 0;
  bool is_quiesced_ = false;
  std::move_only_function<void(std::optional<std::size_t>)> on_quiesced_;  // until it was called
  std::uint32_t pops_left_ = 0;  // in this pass: bounds what a driver that never stops can take
  std::uint32_t in_flight_ = 0;
  std::uint32_t unpublished_ = 0;  // answers that the driver does not see yet
  bool owes_call_ = false;         // for some that it sees
  bool owes_log_event_ = false;
  bool polls_periodically_ = false;  // because there is no kick descriptor
  task::StopSource stop_polling_;
  task::Event quiet_;  // set once nothing is out and the ring is stopping
  task::Scope polling_;
  task::Scope control_;
};

}  // namespace guestio::vhost
