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

/// Serves one device to one front-end at a time. Others wait in the backlog of the listening socket
/// meanwhile and disturb nobody.
///
/// Threads: the control thread, which runs `home`. Lifetime: its parts outlive it.
class Backend {
 public:
  struct Parts {
    uring::Loop& home;
    virtio::Device& device;
    QueueThreads& threads;
    std::string name = "disk";     ///< prefix of log lines, such as "disk root"
    bool uses_one_thread = false;  ///< all queues are of one of the threads
  };

  /// Assigns each of `queues` virtqueues to one of the threads, round robin.
  /// Errors: those of `make_handler`.
  static Result<std::unique_ptr<Backend>> create(const Parts& parts, std::uint16_t queues,
                                                 const QueueHandlerFactory& make_handler);

  ~Backend();

  /// Accepts front-ends from a listening socket until stop(), then drains and returns.
  /// Errors: host (the listening socket fails).
  task::Task<Result<>> accept_all(int listening_socket);
  /// Serves the front-end of a connected socket until it disconnects, or stop().
  task::Task<> serve_one(UniqueFd socket);
  /// Serves the front-end of restore() until it disconnects, or stop().
  task::Task<> serve_restored();
  /// Notifies the front-end of a changed device configuration, such as its size: at once, or when a
  /// ring runs again. Without effect unless can_notify_config_change(): a later front-end reads the
  /// configuration anyway.
  void notify_config_changed() noexcept {
    if (session_) session_->notify_config_changed();
  }
  /// Whether a connected front-end takes CONFIG_CHANGE_MSG: QEMU does, cloud-hypervisor does not.
  [[nodiscard]] bool can_notify_config_change() const noexcept {
    return session_ && session_->can_notify_config_change();
  }
  /// By index.
  [[nodiscard]] std::span<const std::unique_ptr<Queue>> queues() const noexcept { return queues_; }
  /// Whether a front-end is connected.
  [[nodiscard]] bool is_connected() const noexcept { return session_ != nullptr; }
  /// Does not offer these ring features to later front-ends.
  void withhold_features(virtio::FeatureBits features) noexcept { ring_features_ &= ~features; }
  /// Registers the memory of later front-ends with the io_uring rings, where the kernel allows it
  /// (MemoryRegistry). kAll excludes post-copy, and post-copy excludes kResidentOnly: registration
  /// must not touch memory that still arrives.
  void register_guest_memory(registered::RegistrationScope extent) noexcept;

  // Takeover of the device and its front-end by another process.

  /// Accepts no front-ends and handles no messages; rings run on. Returns false when `limit` is
  /// stopped first. A front-end that delays it by not reading replies is disconnected then, with
  /// `last_limit` for the rest. resume() has to follow in any case.
  task::Task<bool> quiesce(task::StopToken limit, task::StopToken last_limit);
  /// As of SessionHandover; without a front-end there is no obstacle. Requires: quiesced.
  task::Task<std::optional<Session::Obstacle>> drain(task::StopToken limit);
  task::Task<> freeze();
  /// Nothing without a front-end. Errors: host. Requires: frozen.
  [[nodiscard]] Result<std::optional<SessionState>> snapshot() const;
  /// Resumes as if nothing had happened.
  task::Task<> resume();
  /// Continues the session of another process: accept_all() or serve_restored() serves it first.
  /// Errors: as of SessionHandover::restore(); no session exists then. Requires: neither was
  /// called.
  Result<> restore(SessionState state);

  /// Determines the number of descriptors of a backend.
  struct Capacity {
    std::size_t queues;
    std::size_t memory_slots;
    bool registers_memory;
  };
  /// The most descriptors of this process that a front-end can make such a backend hold.
  [[nodiscard]] static std::size_t max_descriptors(const Capacity& capacity) noexcept;
  /// Offers `count` memory slots to later front-ends, instead of kMaxMemorySlots.
  void offer_memory_slots(std::size_t count) noexcept { memory_slots_ = count; }
  /// Offers post-copy migration to later front-ends. Requires: trusted ones (Userfaultfd).
  void offer_post_copy() noexcept { offers_post_copy_ = true; }
  /// Accepts no more front-ends, and disconnects the present one after draining.
  void stop() noexcept;

 private:
  void join_threads();
  void log_shortage(const Error& cause);
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
  std::vector<QueueThread*> threads_;  // of the queues, each once
  task::RestPoint rest_;
  std::unique_ptr<Session> session_;  // while a front-end is connected
  virtio::FeatureBits ring_features_ = Session::kRingFeatures;
  std::optional<registered::RegistrationScope>
      registration_scope_;  // empty: guest memory is not registered
  bool offers_post_copy_ = false;
  std::size_t memory_slots_ = kMaxMemorySlots;
  task::StopSource stop_;
};

}  // namespace guestio::vhost
