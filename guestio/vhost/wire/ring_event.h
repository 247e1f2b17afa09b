// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace guestio::vhost {

/// Notifications about a ring, one eventfd each.
enum class RingEvent : std::uint8_t {
  kKick,   ///< driver to device: available buffers
  kCall,   ///< device to driver: used buffers
  kError,  ///< device to driver: the ring is broken
};

}  // namespace guestio::vhost
