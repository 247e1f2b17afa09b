// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/base/units.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/layout.h"

/// What a driver puts into a ring and gets out of it, whatever the kind of ring.
namespace guestio::virtio {

/// One piece of a request.
struct DriverSegment {
  Gpa address;
  std::uint32_t length;
  Direction direction;
};

/// Guest memory of ours for one indirect table, in use until its chain is reaped.
struct DriverTable {
  Descriptor* place;  ///< where it lies in this process; packed rings use as many bytes an entry
  Gpa address;
  std::uint32_t capacity;  ///< entries
};

/// A chain that came back.
struct DriverUsed {
  std::uint16_t head;     ///< what add() returned for it
  std::uint32_t written;  ///< what the device says, unchecked
};

}  // namespace guestio::virtio
