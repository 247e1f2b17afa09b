// SPDX-License-Identifier: MIT
#include "held_requests.h"

namespace guestio::app {

void HeldRequests::decide(Decision decision) {
  for (const Place& place : queues_) {
    place.loop->post([queue = place.queue, decision] {
      if (decision == Decision::kResume) {
        queue->resume();
      } else {
        queue->give_up();
      }
    });
  }
}

}  // namespace guestio::app
