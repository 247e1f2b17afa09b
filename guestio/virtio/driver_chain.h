// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/base/units.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/layout.h"

/// The chains of a driver, for either kind of ring.
namespace guestio::virtio {

/// One descriptor of a chain.
struct DriverSegment {
  Gpa address;
  std::uint32_t length;
  Direction direction;
};

/// Guest memory for one indirect table. In use until its chain is reaped.
struct DriverTable {
  Descriptor* host;  ///< in this process; packed rings use the same bytes per entry
  Gpa address;
  std::uint32_t capacity;  ///< entries
};

/// A returned chain.
struct DriverUsed {
  std::uint16_t head;     ///< as returned by add()
  std::uint32_t written;  ///< the device's count, unchecked
};

}  // namespace guestio::virtio
