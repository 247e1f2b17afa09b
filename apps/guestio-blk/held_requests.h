// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "guestio/blk/block_queue.h"
#include "guestio/uring/loop.h"

namespace guestio::app {

/// Requests that wait for the disk, over all queues, and what a person decides about them.
///
/// Threads: the control thread; add() while that one waits for the queue's. Lifetime: decide() is
/// for the time in which all queues live.
class HeldRequests {
 public:
  enum class Decision {
    kRetry,  ///< they go to the disk now
    kFail,   ///< the guest is told of the error that they met
  };

  void add(uring::Loop& loop, blk::BlockQueue& queue) { queues_.push_back({&loop, &queue}); }
  /// Returns at once; the queues' threads do it.
  void decide(Decision decision);

 private:
  struct Place {
    uring::Loop* loop;
    blk::BlockQueue* queue;
  };
  std::vector<Place> queues_;
};

}  // namespace guestio::app
