// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "guestio/blk/block_queue.h"
#include "guestio/uring/loop.h"

namespace guestio::app {

/// The held requests of all queues of a disk, and the decision of an operator about them.
///
/// Threads: the control thread. It is blocked while a queue's thread calls add(). Lifetime: all
/// queues outlive the last decide().
class HeldRequests {
 public:
  enum class Decision {
    kRetry,  ///< retries them now
    kFail,   ///< completes them with their error
  };

  void add(uring::Loop& loop, blk::BlockQueue& queue) { queues_.push_back({&loop, &queue}); }
  /// Returns at once; the queue threads act later.
  void decide(Decision decision);

 private:
  struct HeldQueue {
    uring::Loop* loop;
    blk::BlockQueue* queue;
  };
  std::vector<HeldQueue> queues_;
};

}  // namespace guestio::app
