// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/slist.hpp>

#include <deque>
#include <memory>

#include "guestio/blk/block_device.h"
#include "guestio/blk/block_request.h"
#include "guestio/disk/disk.h"
#include "guestio/virtio/device.h"

namespace guestio::blk {

/// The requests of one virtqueue: takes chains, hands them to the disk, answers them.
///
/// The way of one request: process() → Request::begin() → disk::Channel::start() →
/// Request::on_done() → answer(). Requests come from a pool that is made once; when all are out,
/// the queue is left alone until one is back.
///
/// Threads: the queue's. Lifetime: quiet when destroyed (checked).
class BlockQueue final : public virtio::QueueHandler {
 public:
  static constexpr std::size_t kMostRequests = 1024;

  BlockQueue(const BlockDevice& device, std::unique_ptr<disk::Channel> channel,
             std::size_t requests = kMostRequests);
  BlockQueue(const BlockQueue&) = delete;
  BlockQueue& operator=(const BlockQueue&) = delete;
  ~BlockQueue() override;

  void process(virtio::DeviceQueue& queue) noexcept override;

 private:
  class Request;
  using FreeList = boost::intrusive::slist<Request, boost::intrusive::constant_time_size<true>,
                                           boost::intrusive::cache_last<false>>;

  const BlockDevice& device_;
  std::unique_ptr<disk::Channel> channel_;
  std::deque<Request> requests_;  // never moved
  std::unique_ptr<FreeList> free_;
};

}  // namespace guestio::blk
