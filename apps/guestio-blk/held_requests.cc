// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/held_requests.h"

namespace guestio::app {

void HeldRequests::decide(Decision decision) {
  for (const HeldQueue& held : queues_) {
    held.loop->post([queue = held.queue, decision] {
      if (decision == Decision::kRetry) {
        queue->retry_held();
      } else {
        queue->fail_held();
      }
    });
  }
}

}  // namespace guestio::app
