// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "guestio/base/peer_log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/rest_point.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/vhost/session/back_channel.h"
#include "guestio/vhost/session/inband_ring.h"
#include "guestio/vhost/session/pipe_relay.h"
#include "guestio/vhost/session/ring_setup.h"
#include "guestio/vhost/session/session_state.h"
#include "guestio/vhost/session/userfaultfd.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/received_message.h"
#include "guestio/virtio/device.h"

namespace guestio::vhost {

/// One front-end's connection, from its first message until it leaves: receives, checks and obeys
/// messages, answers them, and at the end stops the rings and forgets the front-end's memory.
///
/// A message that breaks a rule is refused: nothing changes, the answer (where one is wanted) says
/// so, a line is logged, the connection goes on. Only what cannot be a message at all ends it.
///
/// Threads: the control thread, which runs `home`.
class Session {
 public:
  struct Parts {
    uring::Loop& home;
    virtio::Device& device;
    std::span<const std::unique_ptr<Queue>> queues;     ///< those that are offered
    task::RestPoint& rest;                              ///< between two messages
    virtio::FeatureBits ring_features = kRingFeatures;  ///< of those, the ones offered
    std::shared_ptr<registered::MemoryRegistry> fixed =
        {};                         ///< its own, or nothing: not registered
    bool offers_post_copy = false;  ///< to a front-end that is trusted
    std::shared_ptr<PeerLog> peer_log = std::make_shared<PeerLog>();
    std::shared_ptr<RelayCount> relays = std::make_shared<RelayCount>();
    std::size_t memory_slots = kMaxMemorySlots;  ///< offered
  };

  /// Regions beyond the memory slots that requests in flight may keep after they were taken out.
  static constexpr std::size_t kMaxStaleRegions = 16;

  /// What the transport can do about rings.
  static constexpr virtio::FeatureBits kRingFeatures =
      virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx | virtio::kFeatureRingPacked;

  Session(const Parts& parts, UniqueFd socket);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { condition_->tell = nullptr; }

  /// Serves until the front-end leaves or disconnect() is called. Once.
  task::Task<> run();
  /// Ends the connection; run() then drains and returns.
  void disconnect() noexcept;
  /// Tells the front-end that the device's configuration has changed (CONFIG_CHANGE_MSG): now, or
  /// when a ring runs again. Does nothing where hears_of_changes() is false.
  void notify_config_changed() noexcept;
  /// Whether the front-end negotiated that and opened the way for it.
  [[nodiscard]] bool can_notify_config_change() const noexcept;

  // For another process that is to go on with the session (session_state.h). The session rests
  // between two messages all the time (RestPoint); rings run until they are suspended.

  /// Why a session cannot be handed over now.
  struct Obstacle {
    std::size_t held_requests = 0;  ///< requests that wait for better times and stand in no record
    bool is_busy = false;           ///< some are still worked on
  };
  /// Has all rings take nothing more, and waits until what they took is answered or, in an
  /// in-flight record, waits for better times; or until `limit` is stopped. Returns what is in the
  /// way: then go_on() is to follow.
  task::Task<std::optional<Obstacle>> drain(task::StopToken limit);
  /// Stops all rings where they are. Requires: drain() found nothing in the way.
  task::Task<> freeze();
  /// Goes on after the two, or one of them. What a ring cannot go on for is its front-end's fault,
  /// and ends the connection.
  task::Task<> resume();
  /// Errors: host. Requires: suspended.
  [[nodiscard]] Result<SessionState> snapshot() const;
  /// Takes over what another process's session was, suspended; run() goes on with it. Errors: peer
  /// fault (what makes no sense), unsupported (what this process does not offer), memory fault
  /// (the front-end has cut its memory or records off), host. Requires: before run().
  Result<> restore(SessionState state);
  [[nodiscard]] bool is_frozen() const noexcept { return is_frozen_; }
  /// Whether an answer is on its way that the front-end may be slow to take.
  [[nodiscard]] bool is_replying() const noexcept { return is_replying_; }

 private:
  /// What goes back to the front-end when a message was obeyed.
  struct Answer {
    std::array<std::byte, sizeof(ConfigHeader) + kMaxConfig> payload;
    std::size_t size = 0;
    int descriptor = -1;  // goes with it
    /// Whether it is sent as the message has it, whatever the message, or not at all.
    enum class Way : std::uint8_t { kUsual, kOwn, kSilent } way = Way::kUsual;

    static Answer none() noexcept { return {}; }
    static Answer silence() noexcept {
      Answer answer;
      answer.way = Way::kSilent;
      return answer;
    }
    template <typename T>
    static Answer of(const T& value) noexcept;
  };

  /// What rings say from their threads. Outlives the session: a word may still be on its way.
  struct DeviceCondition {
    /// A ring has broken. States: false → true on a ring's thread, → false when the device is reset
    /// and its rings have stopped.
    std::atomic<bool> needs_reset = false;
    std::function<void()> tell;  ///< the front-end; the control thread's
  };

  task::Task<Result<>> serve_one();
  void log_end(const Error& cause);
  task::Task<Result<Answer>> handle_message();
  Result<Answer> handle_sync(FrontendRequest request);
  task::Task<Result<>> respond(const Result<Answer>& outcome);

  // One for each message; the payload is message_'s.
  Result<Answer> get_status() const;
  Result<Answer> set_protocol_features();
  Result<Answer> get_config() const;
  Result<Answer> set_config();
  Result<Answer> get_inflight();
  Result<Answer> set_inflight();
  Result<Answer> set_vring_size();
  Result<Answer> set_vring_base();
  Result<Answer> set_vring_addresses();
  Result<Answer> set_vring_descriptor(RingEvent event);
  Result<UniqueFd> take_ring_descriptor(std::uint16_t ring, RingEvent event);
  Result<Answer> get_max_memory_slots() const;
  Result<Answer> advise_post_copy();
  Result<Answer> listen_for_post_copy();
  Result<Answer> end_post_copy();
  Result<> watch_arriving_memory();
  [[nodiscard]] bool is_end_of_memory_news() const noexcept;
  Result<Answer> tell_addresses(std::size_t first, std::size_t count) const;
  task::Task<Result<Answer>> set_memory_table();
  task::Task<Result<Answer>> add_memory_region();
  task::Task<Result<Answer>> remove_memory_region();
  task::Task<Result<Answer>> set_vring_enable();
  task::Task<Result<Answer>> kick_vring();
  task::Task<Result<Answer>> get_vring_base();
  task::Task<Result<Answer>> handle_for_ring(FrontendRequest request);
  task::Task<Result<Answer>> set_features();
  task::Task<Result<Answer>> set_log_base();
  task::Task<Result<Answer>> set_log_event();
  Result<> use_log(const LogDescription& where, UniqueFd file);
  task::Task<Result<>> change_logs();
  task::Task<Result<Answer>> set_backend_request_fd();
  task::Task<Result<Answer>> set_status();
  task::Task<Result<Answer>> reset_device();
  task::Task<> stop_rings();
  void begin_rings();
  [[nodiscard]] std::uint8_t device_status() const noexcept;
  void report_needs_reset() noexcept;
  task::Task<> drain_ring(RingSetup& ring, std::vector<std::optional<std::size_t>>& outcomes);
  task::Task<Result<>> resume_ring(RingSetup& ring);
  Result<> restore_shared(SessionState& state);
  Result<> restore_rings(std::vector<RingState> rings);
  Result<> restore_pipes(RingState& ring, std::uint16_t index);
  [[nodiscard]] Result<> add_pipes(RingState& ring, std::uint16_t index) const;
  task::Task<Result<>> start_if_ready(RingSetup& ring);
  Result<> set_inband_descriptors(RingSetup& ring);
  void note_rings();

  [[nodiscard]] std::uint64_t offered_features() const noexcept;
  [[nodiscard]] ProtocolBits offered_protocol_features() const noexcept;
  Result<RingSetup*> find_ring(std::uint32_t index);
  template <typename Change>
  Result<Answer> with_ring(std::uint32_t index, Change change);
  template <typename T>
  Result<T> payload_as() const;
  Result<InflightDescription> inflight_payload() const;
  /// Errors: unsupported when a protocol feature was not negotiated.
  [[nodiscard]] Result<> require_feature(ProtocolBits feature) const;
  [[nodiscard]] RingContext context() const;
  /// Puts all rings on the present memory and starts those that waited for it. Returns the last
  /// failure of a ring.
  void use_memory(std::shared_ptr<const MemoryTable> memory);
  Result<> count_regions(const MemoryTable& memory);
  task::Task<Result<>> move_rings_to_memory();
  task::Task<Result<Answer>> change_slots(std::shared_ptr<const MemoryTable> memory);

  const Parts parts_;
  UniqueFd socket_;
  Message message_;
  BackChannel channel_{parts_.home, parts_.peer_log};
  PipeRelay relay_{parts_.home, parts_.relays};
  std::uint64_t features_ = 0;
  bool uses_device_ = false;  // some ring runs
  std::uint8_t status_ = 0;   // of the virtio device, as the driver wrote it
  const std::shared_ptr<DeviceCondition> condition_ = std::make_shared<DeviceCondition>();
  ProtocolBits protocol_features_ = 0;
  std::shared_ptr<const MemoryTable> memory_;
  /// Regions of memory_, and of memory before it that is still in use.
  std::map<const mem::Backing*, std::weak_ptr<mem::Backing>> mapped_;
  std::shared_ptr<const InflightRecord> made_inflight_;  // for a front-end that has none
  std::shared_ptr<const InflightRecord> inflight_;       // the one in use
  std::shared_ptr<const mem::DirtyLog> log_;             // used while kFeatureLogAll is set
  LogDescription log_where_{};
  UniqueFd log_file_;  // of log_
  UniqueFd log_event_;
  bool is_frozen_ = false;  // for another process
  bool is_replying_ = false;
  std::unique_ptr<Userfaultfd> faults_;  // from the advice to the end of post-copy
  bool is_memory_arriving_ = false;      // post-copy is on: faults_ watches the memory
  std::vector<std::unique_ptr<RingSetup>> rings_;
  std::vector<std::unique_ptr<InbandRing>> inband_;  // of each ring, what comes as messages
};

template <typename T>
Session::Answer Session::Answer::of(const T& value) noexcept {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof payload);
  Answer answer;
  std::memcpy(answer.payload.data(), &value, sizeof value);
  answer.size = sizeof value;
  return answer;
}

template <typename T>
Result<T> Session::payload_as() const {
  const auto value = message_.as<T>();
  if (!value) return fail(Error::peer_fault("the size of a message", message_.header.size));
  return *value;
}

}  // namespace guestio::vhost
