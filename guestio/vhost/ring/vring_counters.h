// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/base/counter.h"

namespace guestio::vhost {

/// Counts of one queue, over all of its rings. Threads: the queue's writes, any reads.
struct VringCounters {
  Counter kicks;                 ///< wake-ups by the driver
  Counter calls;                 ///< interrupts sent to the driver
  Counter malformed;             ///< chains
  Counter broken;                ///< rings that stopped because of their content or memory
  Counter registered_regions;    ///< of guest memory, now
  Counter unregistered_regions;  ///< now, while registration is wanted
};

}  // namespace guestio::vhost
