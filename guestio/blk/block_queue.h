// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/slist.hpp>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "guestio/blk/block_device.h"
#include "guestio/blk/block_request.h"
#include "guestio/blk/failure_policy.h"
#include "guestio/blk/queue_statistics.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/throttle_channel.h"
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/virtio/device.h"

namespace guestio::blk {

/// Serves the requests of one virtqueue: pops chains, starts them on the disk, completes them.
///
///     process() → Request::begin() → disk::Channel::start() → Request::on_done() → complete()
///
/// Requests come from a pool of fixed size. While all are in flight, no chain is popped.
///
/// 1. A chain is returned only with its status written; a malformed chain with an I/O error.
/// 2. Without a writable status byte the chain is never returned and the queue breaks, because the
///    driver's status byte may hold an older success.
/// 3. A request failed by the disk completes with an error or, by the FailurePolicy, is held: it
///    goes to the disk again after a pause.
/// 4. drain() gives held requests one last attempt, at once.
/// 5. quiesce() parks held requests, until resume() or abandon().
/// 6. drain() and quiesce() let requests through that wait for a limit: a guest or an upgrade must
///    not wait for them longer than for the disk. A limit delays no more than the next requests.
///
/// Threads: the queue's. Lifetime: no request is in flight when it is destroyed (checked).
class BlockQueue final : public virtio::QueueHandler, public virtio::HandoverHandler {
 public:
  static constexpr std::size_t kMaxRequests = 1024;

  /// `label`: the subject of log lines, as in "disk root, queue 0"; empty: the device's name.
  BlockQueue(const BlockDevice& device, std::unique_ptr<disk::Channel> channel,
             std::size_t requests = kMaxRequests, FailurePolicy policy = {},
             std::string label = {});
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;
  ~BlockQueue() override;

  void process(virtio::DeviceQueue& queue) noexcept override;
  std::optional<std::uint32_t> write_error_status(
      const virtio::PoppedChain& popped) noexcept override;
  void drain() noexcept override;
  virtio::HandoverHandler* handover() noexcept override { return this; }
  // virtio::HandoverHandler
  void quiesce() noexcept override;
  void resume() noexcept override;
  [[nodiscard]] std::size_t held_chains() const noexcept override { return parked_; }
  void abandon() noexcept override;

  /// Limits the requests by `group`; the queue pays nothing while the group has no limit. Once.
  /// Requires: a timer in the policy.
  void set_throttle(std::shared_ptr<disk::ThrottleGroup> group);
  /// The limits of the group have changed: waiting requests try again, or start in order.
  void on_limits_changed() noexcept;
  /// Any thread, after set_throttle(). Null before.
  [[nodiscard]] const disk::ThrottleStatistics* throttle_statistics() const noexcept {
    return throttle_ ? &throttle_->throttle_statistics() : nullptr;
  }

  // Held requests, for the operator.
  /// Their number. Any thread.
  [[nodiscard]] std::uint64_t held() const noexcept { return held_; }
  /// Retries the held requests now.
  void retry_held() noexcept;
  /// Completes the held requests with the error of their last attempt.
  void fail_held() noexcept;

  /// Counts of the guest's requests. Any thread.
  [[nodiscard]] const QueueStatistics& statistics() const noexcept { return statistics_; }
  /// Counts of the disk's work for them. Any thread.
  [[nodiscard]] disk::ChannelStatistics channel_statistics() const noexcept {
    return disk_channel_->statistics();
  }

 private:
  class Request;
  using FreeList = boost::intrusive::slist<Request, boost::intrusive::constant_time_size<true>,
                                           boost::intrusive::cache_last<false>>;

  /// Retries after a pause.
  task::Task<> hold(Request& request);
  void park(Request& request) noexcept;
  void count_held(const Error& error) noexcept;
  void count_hold_ended() noexcept;
  void open_throttle() noexcept;
  void close_throttle() noexcept;

  const BlockDevice& device_;
  const std::string label_;
  const std::unique_ptr<disk::Channel> disk_channel_;
  disk::Channel* channel_;  // disk_channel_, or throttle_ while there is a limit
  const FailurePolicy policy_;
  std::unique_ptr<disk::ThrottleChannel> throttle_;  // optional
  QueueStatistics statistics_;
  std::uint32_t requests_until_timed_ = 1;
  std::deque<Request> requests_;  // never moved
  std::unique_ptr<FreeList> free_;

  bool is_draining_ = false;  // no request is held any more
  bool is_quiesced_ = false;  // held requests are parked
  bool is_throttle_open_ = false;
  std::size_t parked_ = 0;
  Counter held_;
  std::unique_ptr<task::StopSource> stop_pauses_ = std::make_unique<task::StopSource>();
  task::Scope holding_;
};

}  // namespace guestio::blk
