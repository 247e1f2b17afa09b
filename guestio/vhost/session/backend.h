// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/registered/memory_registry.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/vhost/session/session.h"
#include "guestio/virtio/device.h"

namespace guestio::vhost {

/// Serves one device to one front-end after another. The others wait in the listening socket's line
/// meanwhile and disturb nobody.
///
/// Threads: the control thread, which runs `home`. Lifetime: what it was made from outlives it.
class Backend {
 public:
  struct Parts {
    uring::Loop& home;
    virtio::Device& device;
    QueueThreads& threads;
    std::string name = "disk";  ///< the subject of log lines, as in "disk root"
  };

  /// Gives each of `queues` virtqueues its place on one of the threads, in turn.
  /// Errors: those of `make_handler`.
  static Result<std::unique_ptr<Backend>> create(const Parts& parts, std::uint16_t queues,
                                                 const QueueHandlerFactory& make_handler);

  ~Backend();

  /// Accepts front-ends from a listening socket until stop(), then drains and returns.
  /// Errors: host, when the socket itself fails.
  task::Task<Result<>> accept_all(int listening_socket);
  /// Serves the one front-end at the other end of a connected socket until it leaves, or stop().
  task::Task<> serve_one(UniqueFd socket);
  /// Serves the front-end that restore() brought until it leaves, or stop().
  task::Task<> serve_restored();
  /// Tells the front-end, if there is one that hears it, that the device's configuration has
  /// changed, such as its size: at once, or when a ring runs again. One that comes later reads the
  /// configuration anyway.
  void notify_config_changed() noexcept {
    if (session_) session_->notify_config_changed();
  }
  /// Whether there is a front-end that hears of changes: QEMU does, cloud-hypervisor does not.
  [[nodiscard]] bool can_notify_config_change() const noexcept {
    return session_ && session_->can_notify_config_change();
  }
  /// In their order.
  [[nodiscard]] std::span<const std::unique_ptr<Queue>> queues() const noexcept { return queues_; }
  /// Whether a front-end is there.
  [[nodiscard]] bool is_connected() const noexcept { return session_ != nullptr; }
  /// Ring features that front-ends to come are not offered.
  void withhold_features(virtio::FeatureBits features) noexcept { ring_features_ &= ~features; }
  /// Registers the memory of front-ends to come with the rings, where the kernel allows it
  /// (MemoryRegistry). kAll leaves post-copy out, and post-copy leaves kResidentOnly out: memory
  /// that still arrives must not be brought in.
  void register_guest_memory(registered::RegistrationScope extent) noexcept;
  // For another process that is to go on with the device and its front-end.

  /// Comes to rest: accepts nobody, takes no message; rings run on. Returns false when that takes
  /// until `limit` is stopped; a front-end that holds it up by taking no answers is left then, and
  /// `last_limit` waited for. go_on() has to follow in any case.
  task::Task<bool> quiesce(task::StopToken limit, task::StopToken last_limit);
  /// As of vhost::Session; without a front-end there is nothing in the way. Requires: at rest.
  task::Task<std::optional<Session::Obstacle>> drain(task::StopToken limit);
  task::Task<> freeze();
  /// The session as a value, if there is one. Errors: host. Requires: suspended.
  [[nodiscard]] Result<std::optional<SessionState>> snapshot() const;
  /// Goes on as if nothing had been.
  task::Task<> resume();
  /// Takes a session over: accept_all() or serve_one() goes on with it before all else. Errors: as
  /// of Session::restore(); there is no session then. Requires: none of the two was called.
  Result<> restore(SessionState state);

  /// What a backend's descriptors depend on.
  struct Capacity {
    std::size_t queues;
    std::size_t memory_slots;
    bool registers_memory;
  };
  /// The most descriptors of this process that a front-end can make such a backend hold, whatever
  /// it does.
  [[nodiscard]] static std::size_t max_descriptors(const Capacity& capacity) noexcept;
  /// Offers so many memory slots to front-ends to come, instead of kMaxMemorySlots.
  void offer_memory_slots(std::size_t count) noexcept { memory_slots_ = count; }
  /// Offers post-copy migration to front-ends to come, which have to be trusted: see Userfaultfd.
  void offer_post_copy() noexcept { offers_post_copy_ = true; }
  /// No new front-ends; the present one is taken leave of once its requests are done.
  void stop() noexcept;

 private:
  void share_threads();
  void tell_shortage(const Error& cause);
  void begin_session(UniqueFd socket);
  task::Task<> run_session();
  task::Task<std::int32_t> accept_one(int listening_socket);

  Backend(uring::Loop& home, virtio::Device& device, std::string name) noexcept
      : home_(home), device_(device), log_(std::make_shared<PeerLog>(std::move(name))) {}

  uring::Loop& home_;
  virtio::Device& device_;
  const std::shared_ptr<PeerLog> log_;
  const std::shared_ptr<RelayCount> relays_ = std::make_shared<RelayCount>();
  std::vector<std::unique_ptr<Queue>> queues_;
  std::vector<QueueThread*> threads_;  // of those, each once
  task::RestPoint rest_;
  std::unique_ptr<Session> session_;  // while a front-end is there
  virtio::FeatureBits ring_features_ = Session::kRingFeatures;
  std::optional<registered::RegistrationScope>
      registration_scope_;  ///< or none of guest memory is registered
  bool offers_post_copy_ = false;
  std::size_t memory_slots_ = kMaxMemorySlots;
  task::StopSource stop_;
};

}  // namespace guestio::vhost
