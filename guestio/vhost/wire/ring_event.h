// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace guestio::vhost {

/// What the two sides tell each other about a ring through eventfds.
enum class RingEvent : std::uint8_t {
  kKick,   ///< driver to device: look at the ring
  kCall,   ///< device to driver: look at the ring
  kError,  ///< device to driver: the ring is of no use any more
};

}  // namespace guestio::vhost
