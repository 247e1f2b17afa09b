// SPDX-License-Identifier: MIT
#include "held_requests.h"

namespace guestio::app {

void HeldRequests::decide(Decision decision) {
  for (const Place& place : queues_) {
    place.loop->post([queue = place.queue, decision] {
      if (decision == Decision::kRetry) {
        queue->retry_held();
      } else {
        queue->fail_held();
      }
    });
  }
}

}  // namespace guestio::app
