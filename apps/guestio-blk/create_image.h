// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "guestio/base/error.h"
#include "guestio/base/units.h"

namespace guestio::app {

/// Makes a raw image without allocated blocks where nothing is at `path`; leaves everything else
/// as it is. Returns whether it made one. A failed attempt leaves no file. Errors: host.
Result<bool> create_image(const std::string& path, ByteCount size);

}  // namespace guestio::app
