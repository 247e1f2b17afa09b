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
#include "guestio/task/scope.h"
#include "guestio/task/stop.h"
#include "guestio/virtio/device.h"

namespace guestio::blk {

/// The requests of one virtqueue: takes chains, hands them to the disk, answers them.
///
/// The way of one request: process() → Request::begin() → disk::Channel::start() →
/// Request::on_done() → answer(). Requests come from a pool that is made once; when all are out,
/// the queue is left alone until one is back.
///
/// A request comes back only with its status written, a malformed one with an I/O error. Where the
/// status cannot be written, for want of a writable byte or of its memory, the request never comes
/// back and the queue stops: the byte that its driver looks at may hold an older success.
///
/// A request that the disk fails is answered with an error or, as the FailurePolicy says, held: it
/// goes to the disk again after a pause. When the queue stops, what is held gets one more attempt,
/// at once and the last; while it is paused, what is held is parked: with nobody, until the queue
/// goes on or is left.
///
/// Threads: the queue's. Lifetime: quiet when destroyed (checked).
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
      const virtio::PoppedChain& taken) noexcept override;
  void drain() noexcept override;
  virtio::HandoverHandler* handover() noexcept override { return this; }
  // virtio::HandoverHandler
  void quiesce() noexcept override;
  void resume() noexcept override;
  [[nodiscard]] std::size_t held_chains() const noexcept override { return parked_; }
  void abandon() noexcept override;

  // For the operator, who decides about held requests.
  /// Requests held. Any thread.
  [[nodiscard]] std::uint64_t held() const noexcept { return held_; }
  /// Retries the held requests now.
  void retry_held() noexcept;
  /// Completes the held requests with the error of their last attempt.
  void fail_held() noexcept;

  /// What its guest asked for so far. Any thread.
  [[nodiscard]] const QueueStatistics& statistics() const noexcept { return statistics_; }
  /// What the disk did for it. Any thread.
  [[nodiscard]] disk::ChannelStatistics channel_statistics() const noexcept {
    return channel_->statistics();
  }

 private:
  class Request;
  using FreeList = boost::intrusive::slist<Request, boost::intrusive::constant_time_size<true>,
                                           boost::intrusive::cache_last<false>>;

  /// Another attempt, after a pause.
  task::Task<> hold(Request& request);
  void park(Request& request) noexcept;
  void note_held(const Error& error) noexcept;
  void note_settled() noexcept;

  const BlockDevice& device_;
  const std::string label_;
  std::unique_ptr<disk::Channel> channel_;
  const FailurePolicy policy_;
  QueueStatistics statistics_;
  std::uint32_t until_timed_ = 1;  // requests
  std::deque<Request> requests_;   // never moved
  std::unique_ptr<FreeList> free_;

  bool is_finishing_ = false;  // no request is held any more
  bool is_quiesced_ = false;   // those held are parked
  std::size_t parked_ = 0;
  Counter held_;
  std::unique_ptr<task::StopSource> end_of_pauses_ = std::make_unique<task::StopSource>();
  task::Scope holding_;
};

}  // namespace guestio::blk
